"""Scoring: a subset of a split keeps its lengths, and an evaluation leaves no graph."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Batch, Source, Task
from cab.training import evaluate
from cab.training.scoring import Subset


class Rows(list[list[int]]):
    """A split of rows of several lengths."""

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self]


class Sums(Task):
    """Scores are a sum and a count for each example: the model's weight, and the example itself."""

    metrics = {"error": ("", False)}

    def source(self, folder: Path) -> Source:
        return Source("generated", False, {})

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        return Batch(torch.tensor(examples))

    def score(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        return {"error": torch.stack([model.weight.expand(len(batch.x)), batch.x.float()], 1)}


def test_a_part_has_its_examples_lengths() -> None:
    split = Rows([[0] * (i % 7 + 1) for i in range(30)])
    subset = Subset(split, 7)
    assert subset.lengths == [len(subset[i]) for i in range(len(subset))] and len(subset) == 7
    assert len(set(subset.lengths)) > 1


def test_evaluate_leaves_no_graph_and_takes_sums_with_counts() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(1))
    scores = evaluate(Sums(seq_len=1), model, list(range(4)), batch=3, device=torch.device("cpu"))["error"]
    assert scores.shape == (4, 2) and not scores.requires_grad
    assert scores[:, 1].tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"error": torch.tensor(0.5)}, r"score returned error of shape \(\) for 2 examples: give one value an example"),
        ({"eror": torch.zeros(2)}, "the metric 'eror', which is not in `metrics` of the task: did you mean 'error'"),
        ({"error": 0.5}, "of shape float for 2 examples"),
        (torch.zeros(2), "score returned Tensor: give a dict"),
    ],
)
def test_a_wrong_score_is_told_in_words_of_the_task(scores: Any, message: str) -> None:
    class Wrong(Sums):
        def score(self, model: Any, batch: Batch) -> Any:
            return scores

    with pytest.raises(ValueError, match=message):
        evaluate(Wrong(seq_len=1), nn.Module(), [1, 2], batch=2, device=torch.device("cpu"))
