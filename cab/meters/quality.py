"""Quality: the metrics of the task on its test split, after training."""

from collections.abc import Sequence
from typing import Any

from cab import Meter, Reading
from cab.intervals import mean_score


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
        """Return the mean score with its interval, as `cab.intervals.mean_score` defines them."""
        samples = [sample for process in processes for sample in process["samples"]]
        value, interval = mean_score(samples)
        low, high = interval or (None, None)
        return Reading(value, low, high, len(samples), len(processes))
