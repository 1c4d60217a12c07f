"""Scores for every example of a split, or of a fixed part of it, and their mean."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab.contracts.task import Split, Task
from cab.training.devices import Alone
from cab.training.order import by_length


class Part:
    """`most` examples of a split, drawn once: the same for every seed and mechanism. None, or more than all: all."""

    def __init__(self, split: Split, most: int | None) -> None:
        self.split, size = split, len(split)
        chosen = np.random.default_rng(0).permutation(size)[: size if most is None else most]
        self.indices: list[int] = sorted(chosen.tolist())
        lengths: Sequence[int] | None = getattr(split, "lengths", None)
        self.lengths = None if lengths is None else [lengths[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Any:
        return self.split[self.indices[index]]


@torch.no_grad()
def evaluate(
    task: Task,
    model: nn.Module,
    split: Split,
    *,
    batch: int,
    device: torch.device,
    precision: str = "auto",
    devices: Alone | None = None,
) -> dict[str, Tensor]:
    """Score every example in evaluation mode: metric -> (examples,) or (examples, 2), in the split's order."""
    devices = devices or Alone()
    found: dict[str, list[Tensor]] = {}
    model.eval()
    plan = by_length(len(split), batch, getattr(split, "lengths", None))
    for indices in devices.share(plan):
        examples = task.collate([split[i] for i in indices], trim=True).to(device)
        with autocast(device, precision):
            scores = task.score(model, examples)
        for name, values in scores.items():
            found.setdefault(name, []).append(values.float().cpu())
    scored: dict[str, list[Tensor]] = {}
    order: list[int] = []
    for rank, of_one in enumerate(devices.gathered(found)):
        order += [i for indices in plan[rank :: devices.size] for i in indices]
        for name, parts in of_one.items():
            scored.setdefault(name, []).extend(parts)
    place = torch.tensor(order).argsort()
    return {name: torch.cat(parts)[place] for name, parts in scored.items()}


def mean(values: Tensor) -> float:
    """Average scores: (examples,), or sums and counts (examples, 2), whose counts weigh."""
    values = values.double()
    return (values[:, 0].sum() / values[:, 1].sum()).item() if values.dim() == 2 else values.mean().item()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context of mixed precision: `auto` is bfloat16 on a GPU that computes it, else none."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and fast):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
