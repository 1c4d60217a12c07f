"""`cab doctor`: what this machine is, what would disturb or prevent a measurement, and its peak rates.

Imports no torch.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

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
from cab.terminal.printing import print_pairs

PEAK_TIMEOUT = 300.0  # seconds
BUSY_LOAD = 0.5  # of the cores: a higher load disturbs latencies
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "hydra-core", "omegaconf", "typer", "rich", "plotly", "kaleido")


def print_diagnosis(results: Path, data: Path, out: Console) -> None:
    """Print the machine, the packages, the folders, and warnings."""
    facts = {
        **environment.identity("cpu", None, pinned=False),
        "gpu": environment.identity("cuda", None, pinned=False)["gpu"] or "none",
        **environment.details(),
        "free memory": f"{environment.available_memory() / 2**30:.1f} GiB",
    }
    out.print("Machine", style="bold")
    print_pairs(facts, out)
    out.print("\nPackages", style="bold")
    print_pairs({name: environment.installed(name) or "not installed" for name in PACKAGES}, out)
    out.print("\nFolders", style="bold")
    print_pairs(
        {
            "cab": PACKAGE,
            "results": _folder_state(results),
            "data": _folder_state(data),
            "cache": cache(),
            "locks": runtime(),
        },
        out,
    )
    problems = list(_problems())
    out.print(f"\n{'Warnings' if problems else 'No warnings.'}", style="bold")
    for problem in problems:
        out.print(f"- {escape(problem)}", highlight=False)


def measure_peaks(results: Path, device: str, threads: int | None, out: Console) -> None:
    """Measure the peak rates of a device in a child process, and keep them beside the results.

    The device is locked meanwhile, so that no other measurement runs on it.
    """
    store = Store(results).open_for_writing()
    job = PeakJob(device, threads or environment.usable_cores())
    said: set[str] = set()

    def waiting(holders: str) -> None:
        if holders not in said:
            out.print(f"waiting for {device}{holders}", highlight=False)
        said.add(holders)

    with ForkClient() as client, locks.device(device, True, waiting):
        ending = client.run(job, PEAK_TIMEOUT, None)
    peaks = ending.answer
    if not isinstance(peaks, PeakAnswer):
        raise UsageError(peaks.reason if isinstance(peaks, Failure) else f"the child failed: {describe(ending.exit)}")
    # timings have the environment of a pinned allocator
    path = machine_peaks.keep(store.folder, environment.identity(device, threads, pinned=True), peaks)
    rates = {f"product, {dtype}": f"{rate / 1e9:,.1f} GFLOP/s" for dtype, rate in peaks.matmul.items()}
    print_pairs({**rates, "copy": f"{peaks.copy / 1e9:,.1f} GB/s, read and written", "kept in": path}, out)


def _folder_state(folder: Path) -> str:
    if not folder.exists():
        return f"{folder.absolute()} (not there yet)"
    return f"{folder.absolute()} ({'writable' if os.access(folder, os.W_OK) else 'READ ONLY'})"


def _problems() -> Iterator[str]:
    if environment.installed("torch") is None:
        yield "torch is not installed: cab can list, plan and report, but not measure"
    load, cores = os.getloadavg()[0], environment.usable_cores()
    if load > BUSY_LOAD * cores:
        yield f"the load is {load:.1f} on {cores} cores: other work disturbs latency"
    governor_file = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor_file.is_file() and (governor := governor_file.read_text().strip()) != "performance":
        yield f"the CPU's frequency governor is {governor}, not performance: the clock rate varies"
    if shutil.which("c++") is None and shutil.which("g++") is None:
        yield "there is no C++ compiler: backend=compile cannot build CPU kernels"
    if sys.platform != "linux":
        yield f"cab measures in child processes on Linux; this is {sys.platform}"
    for point in registry.installed("cab.configs"):
        try:
            registry.source_of(point)
        except UsageError as error:
            yield f"the configuration of an installed package is left out: {error}"
    for kind in registry.KINDS:
        for name, card in registry.cards_of(kind).items():
            if isinstance(card, UsageError):
                yield f"{kind} '{name}' cannot be read: {card}"
