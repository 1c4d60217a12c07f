"""Energy: joules per call, of the whole chip, over a window that its counters can resolve."""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from cab import Meter, Reading, Unsupported
from cab.intervals import student_of_logs

RAPL = Path("/sys/class/powercap/intel-rapl")
WINDOW = 5.0  # seconds at least: GPU counters move every 0.1 s, and shorter windows are noise
PACKAGE = "zeus"


class Energy(Meter):
    """What CPU packages or the GPU take for one pass (decoding: for one token), idle power and all."""

    metrics = {"energy": ("joules", False)}
    method = (
        "counters of the whole chip (RAPL, NVML; read through zeus) over at least 5 s of calls, divided by the calls; "
        "median over 3 fresh processes, interval by Student's t on the log scale; what else runs there is in it"
    )
    version = 1
    environment = True
    processes = 3
    pinned_allocator = True

    def unavailable(self, device: str) -> str | None:
        """Say what is missing: the counters, the right to read them, or the package."""
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

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Call for one window, after a second's calls that bring clocks and temperature to where they stay."""
        from zeus.monitor import ZeusMonitor

        on_gpu = call.device.type == "cuda"
        if on_gpu:
            monitor = ZeusMonitor(gpu_indices=[call.device.index or 0], cpu_indices=[])
        else:
            monitor = ZeusMonitor(gpu_indices=[])
        _calls(call.run, 1.0)
        monitor.begin_window("cab", sync_execution=on_gpu)
        calls = _calls(call.run, WINDOW)
        seen = monitor.end_window("cab", sync_execution=on_gpu)
        joules = sum(((seen.gpu_energy if on_gpu else seen.cpu_energy) or {}).values())
        if seen.time < WINDOW:
            raise Unsupported(f"the window took {seen.time:.2f} s, less than {WINDOW:g} s")
        if joules <= 0:
            raise Unsupported(f"the counters did not move in {seen.time:.1f} s")
        return {"energy": {"samples": [joules / calls / call.calls], "window": seen.time, "calls": calls}}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Take the median of the processes, and say how long their windows were."""
        samples = [float(process["samples"][0]) for process in processes]
        low, high = student_of_logs(samples) or (None, None)
        about = f"windows of {min(process['window'] for process in processes):.1f} s and more"
        return Reading(median(samples), low, high, len(samples), len(processes), stop_reason=about)


def _calls(run: Any, seconds: float) -> int:
    """Call for so many seconds; return how often."""
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        run()
        calls += 1
    return calls
