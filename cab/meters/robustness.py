"""Robustness: one trained model, scored on test examples whose inputs are corrupted, at five severities."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cab import Meter, Reading
from cab.intervals import mean_score

if TYPE_CHECKING:
    from torch import Tensor

    from cab.contracts.task import Batch

RATES = (0.025, 0.05, 0.1, 0.2, 0.4)  # share of the tokens that are replaced
DEVIATIONS = (0.08, 0.12, 0.18, 0.26, 0.38)  # of the noise: ImageNet-C's, for pixels from 0 to 1
PIXELS = ("lra_image", "lra_pathfinder", "lra_pathx")  # tasks whose ids are grey levels
LEVELS = 256  # of grey


class Robustness(Meter):
    """Error on corrupted test inputs: tokens replaced, or Gaussian noise where the inputs are numbers or pixels.

    Tokens are ids: each is replaced, with probability 1/40, 1/20, 1/10, 1/5 and 2/5, by another token of its own
    example, drawn at random. Tokens of several ids are replaced whole. Numbers get Gaussian noise of .08, .12, .18, .26
    and .38 times the standard deviation of the example's own values; grey levels (the images of Long Range Arena) of as
    much of their range, and are rounded and cut. Both sequences of a task are corrupted, x and y. What batches offer
    mechanisms beside them, such as segments, is left as it is.

    A corruption is a function of the example's number in the test split alone, so that it is the same for every
    mechanism. What is replaced at one severity is replaced at the next, too; noise only grows.
    """

    metrics = {
        "corrupted_error": ("", False),
        "clean_error": ("", False),
        "corrupted_error_1": ("", False),
        "corrupted_error_2": ("", False),
        "corrupted_error_3": ("", False),
        "corrupted_error_4": ("", False),
        "corrupted_error_5": ("", False),
    }
    method = (
        "the trained model on corrupted test examples at five severities: 2.5, 5, 10, 20 and 40 % of the tokens "
        "replaced by others of the example, or Gaussian noise of .08 to .38 standard deviations on numbers, and of the "
        "range on grey levels; 1 - accuracy, or the score itself where lower is better; mean of the severities; "
        "interval as quality's"
    )
    version = 1
    trains = True

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Only what is trained can be scored."""
        return self.metrics if case.pass_ == "train" else {}

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Score the trained model on the clean examples and at each severity.

        `Unsupported` where the task's first metric gives no error, and where the model reads nothing that is corrupted.
        """
        from cab.errors import Unsupported

        task = workload.task
        headline, (unit, higher_is_better) = next(iter(task.metrics.items()))
        if higher_is_better and unit != "fraction":
            raise Unsupported(f"{headline} is no share of 1 and no error, so that it says nothing of how much is wrong")
        if workload.first_input(Corrupted(task, len(RATES) - 1, case.task in PIXELS)).equal(workload.first_input()):
            raise Unsupported(f"{case.task} scores what is neither in x nor in y, so that no corruption can change it")
        scores = [workload.scores()[headline]]
        scores += [workload.scores(Corrupted(task, level, case.task in PIXELS))[headline] for level in range(5)]
        clean, *corrupted = ([_error(s) for s in each] if higher_is_better else each for each in scores)
        results = {"corrupted_error": {"samples": [_mean(each) for each in zip(*corrupted, strict=True)]}}
        results["clean_error"] = {"samples": clean}
        return results | {f"corrupted_error_{i}": {"samples": each} for i, each in enumerate(corrupted, 1)}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the mean error of the examples with its interval, as `quality` does."""
        samples = [sample for process in processes for sample in process["samples"]]
        error, interval = mean_score(samples)
        low, high = interval or (None, None)
        return Reading(error, low, high, len(samples), len(processes))


def _error(score: Any) -> Any:
    """Return what is wrong, of a share of 1 or of a pair of right answers and answers."""
    return [score[1] - score[0], score[1]] if isinstance(score, list) else 1 - score


def _mean(errors: Sequence[Any]) -> Any:
    """Return one example's mean over the severities; pairs of sum and count are added up."""
    return [sum(each) for each in zip(*errors, strict=True)] if isinstance(errors[0], list) else fmean(errors)


class Corrupted:
    """A task whose examples are corrupted at a severity, from 0 to 4; `pixels` says that ids are grey levels."""

    def __init__(self, task: Any, severity: int, pixels: bool = False) -> None:
        self._task, self._severity, self._pixels = task, severity, pixels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def split(self, name: str, seed: int) -> "Numbered":
        """Return the task's split, each example with its number."""
        return Numbered(self._task.split(name, seed))

    def collate(self, examples: Sequence[tuple[int, Any]], trim: bool = False) -> "Batch":
        """Return the task's batch of numbered examples, with x and y corrupted."""
        batch: Batch = self._task.collate([example for _, example in examples], trim)
        numbers = [number for number, _ in examples]
        x = self._corrupted(batch.x, batch.x_mask, numbers, 0)
        y = None if batch.y is None else self._corrupted(batch.y, batch.y_mask, numbers, 1)
        return replace(batch, x=x, y=y)

    def _corrupted(self, t: "Tensor", mask: "Tensor | None", numbers: Sequence[int], sequence: int) -> "Tensor":
        import numpy as np
        import torch

        corrupted = t.clone()
        for i, number in enumerate(numbers):
            rng = np.random.default_rng([sequence, number])
            real = slice(None) if mask is None else mask[i]
            values = t[i][real].clone()
            if t.is_floating_point() or self._pixels:
                noise = torch.from_numpy(rng.standard_normal(values.shape)) * DEVIATIONS[self._severity]
                corrupted[i][real] = _noisy(values, noise).to(t.dtype)
            else:
                replaced = torch.from_numpy(rng.random(len(values)) < RATES[self._severity])
                others = torch.from_numpy(rng.integers(1, max(2, len(values)), len(values)))
                places = (torch.arange(len(values)) + others) % len(values)
                values[replaced] = values[places[replaced]]
                corrupted[i][real] = values
        return corrupted


def _noisy(values: "Tensor", noise: "Tensor") -> "Tensor":
    if values.is_floating_point():
        return values + values.std(correction=0) * noise
    return (values + (LEVELS - 1) * noise).round().clamp(0, LEVELS - 1)


class Numbered:
    """A split whose item i is (i, the split's item i), with the split's `lengths`."""

    def __init__(self, split: Any) -> None:
        self._split = split
        self.lengths = getattr(split, "lengths", None)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int, /) -> tuple[int, Any]:
        return index, self._split[index]
