"""`cab doctor`: what this machine is, and what would disturb or prevent a measurement. Imports no torch."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cab import environment
from cab.contracts.messages import Failure, PeakAnswer, PeakJob
from cab.errors import UsageError
from cab.paths import PACKAGE, cache, runtime
from cab.plugins import registry
from cab.runner import locks
from cab.runner.fork_client import ForkClient, describe
from cab.store import machine_peaks
from cab.store.store import Store
from cab.terminal.printing import lines

SECONDS = 300.0  # that measuring the peaks may take
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "hydra-core", "omegaconf", "typer", "rich", "plotly", "kaleido")


def print_diagnosis(results: Path, data: Path, out: Console) -> None:
    """Print the machine, the packages, the folders, and warnings."""
    facts = environment.identity("cpu", None, pinned=False)
    facts |= {"gpu": environment.identity("cuda", None, pinned=False)["gpu"] or "none", **environment.details()}
    facts["free memory"] = f"{environment.available_memory() / 2**30:.1f} GiB"
    out.print("Machine", style="bold")
    lines(facts, out)
    out.print("\nPackages", style="bold")
    lines({name: environment.installed(name) or "not installed" for name in PACKAGES}, out)
    out.print("\nFolders", style="bold")
    lines({"cab": PACKAGE, "results": _state(results), "data": _state(data), "cache": cache(), "locks": runtime()}, out)
    problems = list(_problems())
    out.print(f"\n{'Warnings' if problems else 'No warnings.'}", style="bold")
    for problem in problems:
        out.print(f"- {escape(problem)}", highlight=False)


def measure_peaks(results: Path, device: str, threads: int | None, out: Console) -> None:
    """Measure the device's best rates in a child, alone on it, and keep them beside the results."""
    store = Store(results).open_for_writing()
    job = PeakJob(device, threads or environment.usable_cores())
    with ForkClient() as client, locks.device(device, True, lambda: out.print(f"waiting for {device}")):
        ending = client.run(job, SECONDS, None)
    peaks = ending.answer
    if not isinstance(peaks, PeakAnswer):
        raise UsageError(peaks.reason if isinstance(peaks, Failure) else f"the child failed: {describe(ending.exit)}")
    # of the timing rows' environment, whose allocator is pinned
    path = machine_peaks.keep(store.folder, environment.identity(device, threads, pinned=True), peaks)
    shown = {f"product, {name}": f"{rate / 1e9:,.1f} GFLOP/s" for name, rate in peaks.matmul.items()}
    lines({**shown, "copy": f"{peaks.copy / 1e9:,.1f} GB/s, read and written", "kept in": path}, out)


def _state(folder: Path) -> str:
    if not folder.exists():
        return f"{folder.absolute()} (not there yet)"
    return f"{folder.absolute()} ({'writable' if os.access(folder, os.W_OK) else 'READ ONLY'})"


def _problems() -> Any:
    if environment.installed("torch") is None:
        yield "torch is not installed: cab can list, plan and report, but not measure"
    load, cores = os.getloadavg()[0], environment.usable_cores()
    if load > 0.5 * cores:
        yield f"the load is {load:.1f} on {cores} cores: other work disturbs latency"
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file() and governor.read_text().strip() != "performance":
        yield f"the CPU's frequency governor is {governor.read_text().strip()}, not performance: clocks vary"
    if shutil.which("c++") is None and shutil.which("g++") is None:
        yield "there is no C++ compiler: backend=compile cannot build CPU kernels"
    if sys.platform != "linux":
        yield f"cab measures in child processes on Linux; this is {sys.platform}"
    for kind in registry.KINDS:
        for name, card in registry.cards_of(kind).items():
            if isinstance(card, UsageError):
                yield f"{kind} '{name}' cannot be read: {card}"
