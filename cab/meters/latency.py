"""Latency: seconds per call, measured in several fresh processes."""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import median
from typing import Any

from cab import Meter, Reading
from cab.intervals import student_of_logs

TARGET_HALF_WIDTH = 0.05  # of the interval, as a share of the value


class Latency(Meter):
    """Wall time of one pass (decoding: of one token) on the whole batch, in the steady state."""

    metrics = {"latency": ("seconds", False)}
    method = (
        "median over 5 fresh processes of the median wall time per call in each, interval by Student's t over the "
        "processes' medians on the log scale; allocator pinned; on CUDA by events with a cold L2 cache"
    )
    version = 2
    environment = True
    processes = 5
    pinned_allocator = True
    asks = {"timer": "own"}

    def unavailable(self, device: str) -> str | None:
        """The CPU and CUDA have a timer, no other device has."""
        return None if device.split(":")[0] in ("cpu", "cuda") else f"there is no timer for {device}"

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Time the workload; a sample is the mean of `iterations` successive calls."""
        from cab.instruments import timers

        if not workload.has_run:  # the first training step sets up the optimiser, and is no sample
            workload.run()
        timing = timers.TIMERS[case.settings.get("timer", "own")](workload.run, workload.device)
        throttled = [sample / workload.calls for sample in timing.throttled]
        gpu_only = {"clocks": timing.clocks, "throttled": throttled}
        return {
            "latency": {
                "samples": [sample / workload.calls for sample in timing.samples],
                "iterations": timing.iterations,
                "warm_up": timing.warm_up,
                "steady": timing.steady,
                "stop": timing.stop,
                **{name: values for name, values in gpu_only.items() if values},
            }
        }

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the median of the processes' medians.

        The interval is over the medians: samples of one process are correlated, so they count as one.
        """
        medians = [median(process["samples"]) for process in processes]
        value, interval = median(medians), student_of_logs(medians)
        count = sum(len(process["samples"]) for process in processes)
        if interval is None:
            return Reading(value, None, None, count, len(medians), False, "one process gives no interval")
        # the interval is that of the mean of the logs, and may miss the median: extend it to the median
        low, high = min(interval[0], value), max(interval[1], value)
        half_width = sqrt(high / low) - 1
        stops = Counter(process.get("stop", "") for process in processes)
        rules = ", ".join(f"{name} {times}" for name, times in sorted(stops.items()) if name) or "unknown"
        converged = half_width <= TARGET_HALF_WIDTH
        verb = "within" if converged else "exceeds"
        reason = f"±{half_width:.1%} {verb} ±{TARGET_HALF_WIDTH:.0%}; processes stopped by: {rules}"
        if throttled := sum(len(process.get("throttled", ())) for process in processes):
            reason += f"; {throttled} samples at a throttled clock set apart"
        return Reading(value, low, high, count, len(medians), converged, reason)
