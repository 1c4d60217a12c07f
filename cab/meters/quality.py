"""Quality: the metrics of the task on its test split, after training."""

from collections.abc import Sequence
from typing import Any

from cab import Meter, Reading
from cab.intervals import student, student_of_ratio, wilson


class Quality(Meter):
    """The mean score of the test examples. The planner adds the metrics, which are those of the task."""

    method = (
        "mean over the test examples, with the weights of the best validation; interval by Wilson where every score is "
        "0 or 1, else by Student's t over the examples: it covers the choice of test examples, not that of the seed"
    )
    version = 1

    def measure(self, training: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Return the scores of a `cab.training.TrainingResult`."""
        return {metric: {"samples": scores} for metric, scores in training.scores.items()}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the mean score. A score is a number, or a pair of sum and count, which is weighted by its count."""
        samples = [sample for process in processes for sample in process["samples"]]
        if isinstance(samples[0], list | tuple):
            sums, counts = [float(s) for s, _ in samples], [float(c) for _, c in samples]
            value, interval = sum(sums) / sum(counts), student_of_ratio(sums, counts)
            if not any(sums) or sums == counts:  # all wrong or all right: Student's t would have no width
                interval = wilson(value * len(samples), len(samples))
        elif all(sample in (0, 1) for sample in samples):
            value, interval = sum(samples) / len(samples), wilson(sum(samples), len(samples))
        else:
            value, interval = sum(samples) / len(samples), student(samples)
        low, high = interval or (None, None)
        return Reading(value, low, high, len(samples), len(processes))
