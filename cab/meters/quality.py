"""Quality: the task's own metrics on its test split, after training."""

from collections.abc import Sequence
from typing import Any

from cab import Meter, Reading
from cab.intervals import student, student_of_ratio, wilson


class Quality(Meter):
    """The mean of the test examples' scores; the metrics are the task's, and the planner adds them."""

    method = (
        "mean over the test examples of the best validation's weights; interval by Wilson where every score is 0 or 1, "
        "else by Student's t over the examples: it says how much the test set decides, not how much the seed does"
    )
    version = 1

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Take the scores of a `cab.training.Training`."""
        return {metric: {"samples": scores} for metric, scores in call.scores.items()}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Average the scores: numbers, or sums with their counts, whose counts weigh."""
        samples = [sample for process in processes for sample in process["samples"]]
        if isinstance(samples[0], list | tuple):
            sums, counts = [float(s) for s, _ in samples], [float(c) for _, c in samples]
            value, interval = sum(sums) / sum(counts), student_of_ratio(sums, counts)
            if not any(sums) or sums == counts:  # all wrong or all right: t would give an interval of no width
                interval = wilson(value * len(samples), len(samples))
        elif all(sample in (0, 1) for sample in samples):
            value, interval = sum(samples) / len(samples), wilson(sum(samples), len(samples))
        else:
            value, interval = sum(samples) / len(samples), student(samples)
        low, high = interval or (None, None)
        return Reading(value, low, high, len(samples), len(processes))
