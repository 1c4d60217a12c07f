"""Extrapolation: one trained model, scored on test examples that are shorter and longer than those of its training."""

from collections.abc import Sequence
from typing import Any

from cab import Meter, Reading
from cab.intervals import mean_score

LENGTHS = {"quarter": 0.25, "half": 0.5, "same": 1.0, "double": 2.0}  # of the training's


class Extrapolation(Meter):
    """Accuracy at a quarter, a half, all and twice the training's length, of tasks that define `at_length`."""

    metrics = {
        "accuracy_quarter": ("fraction", True),
        "accuracy_half": ("fraction", True),
        "accuracy_same": ("fraction", True),
        "accuracy_double": ("fraction", True),
    }
    method = (
        "the trained model on test examples of 1/4, 1/2, 1 and 2 times the tokens; up to the training's length the "
        "model itself, beyond it one that is built for the length and has the trained weights; mean over the test "
        "examples, with quality's interval"
    )
    version = 1
    trains = True
    needs_task_method = {
        "accuracy_quarter": "at_length",
        "accuracy_half": "at_length",
        "accuracy_same": "at_length",
        "accuracy_double": "at_length",
    }

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Only what is trained has weights to score."""
        return self.metrics if case.pass_ == "train" else {}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Score the trained model at each length; one that it cannot take is `unsupported`, with the reason."""
        from cab.errors import Unsupported

        results: dict[str, dict[str, Any]] = {}
        for name, factor in LENGTHS.items():
            try:
                task = workload.task.at_length(factor)
                model = workload.model if factor <= 1 else workload.model_of(task)
                results[f"accuracy_{name}"] = {
                    "samples": workload.scores(task, model)["accuracy"],
                    "n": task.seq_len,
                    "m": task.source_len,
                }
            except Unsupported as error:
                results[f"accuracy_{name}"] = {"status": "unsupported", "reason": str(error)}
        return results

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the share of right answers with its interval, as `quality` does."""
        samples = [sample for process in processes for sample in process["samples"]]
        share, interval = mean_score(samples)
        low, high = interval or (None, None)
        n, m = processes[0].get("n"), processes[0].get("m")
        length = f"n={n}" if n == m else f"n={n} m={m}"
        return Reading(share, low, high, len(samples), len(processes), stop_reason=length)
