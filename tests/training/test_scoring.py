"""Scoring: a subset of a split keeps its lengths, and an evaluation leaves no graph."""

from pathlib import Path
from typing import Any

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
