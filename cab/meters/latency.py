"""Latency: seconds per call, from several fresh processes."""

from collections import Counter
from collections.abc import Sequence
from math import sqrt
from statistics import median
from typing import Any

from cab import Meter, Reading
from cab.intervals import student_of_logs

WANTED = 0.05  # the interval's half-width, as a share of the value


class Latency(Meter):
    """Wall time of one pass (decoding: of one token) on the whole batch, in steady state."""

    metrics = {"latency": ("seconds", False)}
    method = (
        "median over 5 fresh processes of each one's median wall time per call, interval by Student's t over the "
        "processes' medians on the log scale; allocator pinned; on CUDA by events with a cold second-level cache"
    )
    version = 2
    environment = True
    processes = 5
    pinned_allocator = True
    asks = {"timer": "own"}

    def unavailable(self, device: str) -> str | None:
        """Only the CPU and CUDA have a timer."""
        return None if device.split(":")[0] in ("cpu", "cuda") else f"there is no timer for {device}"

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Time the workload; a sample is the mean of `iterations` calls that follow one another."""
        from cab.instruments import timers

        if not call.has_run:  # a training step, whose first sets up the optimiser
            call.run()
        timing = timers.TIMERS[case.settings.get("timer", "own")](call.run, call.device)
        gpu = {"clocks": timing.clocks, "throttled": [sample / call.calls for sample in timing.throttled]}
        return {
            "latency": {
                "samples": [sample / call.calls for sample in timing.samples],
                "iterations": timing.iterations,
                "warm_up": timing.warm_up,
                "steady": timing.steady,
                "stop": timing.stop,
                **{name: found for name, found in gpu.items() if found},
            }
        }

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Take the median of the processes' medians; within a process samples are alike, so they count once."""
        medians = [median(process["samples"]) for process in processes]
        value, interval = median(medians), student_of_logs(medians)
        count = sum(len(process["samples"]) for process in processes)
        if interval is None:
            return Reading(value, None, None, count, len(medians), False, "one process gives no interval")
        # the interval is for the mean of the logs, from which the median may lie apart: keep both inside
        low, high = min(interval[0], value), max(interval[1], value)
        width = sqrt(high / low) - 1
        stops = Counter(process.get("stop", "") for process in processes)
        rules = ", ".join(f"{name} {times}" for name, times in sorted(stops.items()) if name)
        met = width <= WANTED
        reason = (
            f"±{width:.1%} {'within' if met else 'exceeds'} ±{WANTED:.0%}; processes stopped by: {rules or 'unknown'}"
        )
        if apart := sum(len(process.get("throttled", ())) for process in processes):
            reason += f"; {apart} samples at a throttled clock set apart"
        return Reading(value, low, high, count, len(medians), met, reason)
