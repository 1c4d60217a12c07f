"""Energy: joules per call, of the whole chip, over a window that is long for its counters."""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from cab import Meter, Reading, Unsupported
from cab.intervals import student_of_logs

RAPL = Path("/sys/class/powercap/intel-rapl")
WINDOW_SECONDS = 5.0  # at least: GPU counters are updated every 0.1 s, and the noise of shorter windows is large
PACKAGE = "zeus"


class Energy(Meter):
    """Energy that the CPU packages or the GPU use for one pass (decoding: for one token), idle power included."""

    metrics = {"energy": ("joules", False)}
    method = (
        "counters of the whole chip (RAPL, NVML; read through zeus) over at least 5 s of calls, divided by the calls; "
        "median over 3 fresh processes, interval by Student's t on the log scale; includes what other programs use"
    )
    version = 1
    environment = True
    processes = 3
    pinned_allocator = True

    def unavailable(self, device: str) -> str | None:
        """Say what is missing: the counters, the permission to read them, or the package."""
        kind = device.split(":")[0]
        if kind not in ("cpu", "cuda"):
            return f"there is no energy counter for {device}"
        if kind == "cpu":
            counters = sorted(RAPL.glob("intel-rapl:*/energy_uj"))
            if not counters:
                return f"this machine shows no energy counter of the CPU (RAPL: {RAPL})"
            try:
                counters[0].read_text()
            except OSError as error:
                return (
                    f"the CPU's energy counters cannot be read ({error.strerror}): only root may, unless it is allowed"
                )
        if find_spec(PACKAGE) is None:
            return f"the package {PACKAGE} is not installed: pip install 'cab-bench[energy]'"
        return None

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Read the counters over one window of calls, after a second of calls for clock rate and temperature to settle.

        `Unsupported` where the window is too short or the counters do not move.
        """
        from zeus.monitor import ZeusMonitor

        on_gpu = workload.device.type == "cuda"
        if on_gpu:
            monitor = ZeusMonitor(gpu_indices=[workload.device.index or 0], cpu_indices=[])
        else:
            monitor = ZeusMonitor(gpu_indices=[])
        _call_for(workload.run, 1.0)
        monitor.begin_window("cab", sync_execution=on_gpu)
        calls = _call_for(workload.run, WINDOW_SECONDS)
        window = monitor.end_window("cab", sync_execution=on_gpu)
        joules = sum(((window.gpu_energy if on_gpu else window.cpu_energy) or {}).values())
        if window.time < WINDOW_SECONDS:
            raise Unsupported(f"the window took {window.time:.2f} s, less than {WINDOW_SECONDS:g} s")
        if joules <= 0:
            raise Unsupported(f"the counters did not move in {window.time:.1f} s")
        return {"energy": {"samples": [joules / calls / workload.calls], "window": window.time, "calls": calls}}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the median over the processes, and say how long their windows were."""
        samples = [float(process["samples"][0]) for process in processes]
        low, high = student_of_logs(samples) or (None, None)
        shortest = min(process["window"] for process in processes)
        stop_reason = f"windows of {shortest:.1f} s and more"
        return Reading(median(samples), low, high, len(samples), len(processes), stop_reason=stop_reason)


def _call_for(run: Callable[[], Any], seconds: float) -> int:
    """Call for that many seconds; return the number of calls."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        run()
        calls += 1
    return calls
