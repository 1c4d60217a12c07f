"""Latency as a multiple of a baseline's, both measured in turn in one process."""

from collections.abc import Sequence
from math import exp, fsum, log, sqrt
from statistics import median
from typing import Any

from cab import Meter, Reading
from cab.intervals import balanced_median, student_of_logs

TARGET_HALF_WIDTH = 0.05  # of the interval, as a share of the value


class LatencyRatio(Meter):
    """How many times longer one pass takes than the baseline's, on the same inputs in the same process."""

    metrics = {"latency_ratio": ("ratio", False)}
    method = (
        "mechanism and baseline (baseline=NAME, baseline_backend=NAME, with its usual hyper-parameters) timed in turn "
        "in one process, order flipped, a ratio for each pair of samples, and of a process the geometric mean of both "
        "orders' medians; geometric mean over 5 fresh processes, or over 10 where the interval of 5 exceeds ±5 %; "
        "interval by Student's t on the log scale; allocator pinned"
    )
    version = 2
    environment = True
    processes = 5
    more_processes = 5
    pinned_allocator = True
    asks = {"baseline": None, "baseline_backend": None}  # never usual: the baseline is part of every question

    def unavailable(self, device: str) -> str | None:
        """Samples in turn are of the CPU."""
        return None if device == "cpu" else f"latency_ratio is measured on the CPU, not on {device}"

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Check the baseline as the mechanism has been checked, then time both in turn."""
        from cab.instruments.timers.lockstep import in_turn

        baseline = workload.baseline()
        baseline.check()
        for each in (workload, baseline):
            if not each.has_run:  # the first training step sets up the optimiser, and is no sample
                each.run()
        timing = in_turn(workload.run, baseline.run)
        ratios = [ours / theirs for ours, theirs in zip(timing.first, timing.second, strict=True)]
        return {
            "latency_ratio": {
                "samples": ratios,
                "flipped": timing.flipped,
                "seconds": [median(timing.first) / workload.calls, median(timing.second) / baseline.calls],
                "iterations": list(timing.iterations),
            }
        }

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the geometric mean of what each process has; its samples count as one."""
        medians = [
            exp(balanced_median([log(ratio) for ratio in process["samples"]], process["flipped"]))
            for process in processes
        ]
        value, interval = exp(fsum(map(log, medians)) / len(medians)), student_of_logs(medians)
        count = sum(len(process["samples"]) for process in processes)
        if interval is None:
            return Reading(value, None, None, count, len(medians), False, "one process gives no interval")
        half_width = sqrt(interval[1] / interval[0]) - 1
        converged = half_width <= TARGET_HALF_WIDTH
        reason = f"±{half_width:.1%} {'within' if converged else 'exceeds'} ±{TARGET_HALF_WIDTH:.0%}"
        return Reading(value, *interval, count, len(medians), converged, reason)
