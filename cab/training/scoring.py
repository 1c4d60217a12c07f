"""Scores of every example of a split or of a fixed subset of it, their mean, and mixed precision."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cab.contracts.task import Split, Task
from cab.training.batch_sampler import longest_first
from cab.training.devices import ONE_PROCESS, OneProcess


class Subset:
    """`size` examples of a split in its order, drawn at random with a fixed seed: the same for every training.

    All examples where `size` is None or larger than the split.
    """

    def __init__(self, split: Split, size: int | None) -> None:
        self.split = split
        permutation = np.random.default_rng(0).permutation(len(split))
        self.indices: list[int] = sorted(permutation[: len(split) if size is None else size].tolist())
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
    processes: OneProcess = ONE_PROCESS,
) -> dict[str, Tensor]:
    """Score every example in evaluation mode: metric -> (examples,) or (examples, 2), in the split's order."""
    scores: dict[str, list[Tensor]] = {}
    model.eval()
    batches = longest_first(len(split), batch, getattr(split, "lengths", None))
    for indices in processes.shard(batches):
        examples = task.collate([split[i] for i in indices], trim=True).to(device)
        with autocast(device, precision):
            batch_scores = task.score(model, examples)
        _check_scores(task, batch_scores, len(indices))
        for name, values in batch_scores.items():
            scores.setdefault(name, []).append(values.float().cpu())
    gathered: dict[str, list[Tensor]] = {}
    scored_indices: list[int] = []
    for rank, rank_scores in enumerate(processes.all_gather(scores)):
        scored_indices += [i for indices in batches[rank :: processes.size] for i in indices]
        for name, parts in rank_scores.items():
            gathered.setdefault(name, []).extend(parts)
    order = torch.tensor(scored_indices).argsort()
    return {name: torch.cat(parts)[order] for name, parts in gathered.items()}


def _check_scores(task: Task, scores: dict[str, Tensor], examples: int) -> None:
    """Raise `ValueError` where a task's `score` does not return one value an example of metrics on its card."""
    if not isinstance(scores, dict):
        raise ValueError(f"score returned {type(scores).__name__}: give a dict, metric -> one value an example")
    for name, values in scores.items():
        if name not in task.metrics:
            near = get_close_matches(str(name), task.metrics, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its metrics are {', '.join(task.metrics)}"
            raise ValueError(f"score returned the metric {name!r}, which is not in `metrics` of the task: {hint}")
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if shape not in ((examples,), (examples, 2)):
            raise ValueError(
                f"score returned {name} of shape {shape} for {examples} examples: give one value an example, "
                f"({examples},), or its sum and count, ({examples}, 2); the harness takes the mean"
            )


def mean(values: Tensor) -> float:
    """Average scores (examples,), or divide the sums by the counts of scores (examples, 2)."""
    values = values.double()
    return (values[:, 0].sum() / values[:, 1].sum()).item() if values.dim() == 2 else values.mean().item()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return a mixed precision context for a recipe's `precision`.

    `auto` is bfloat16 on a GPU that supports it, and float32 elsewhere.
    """
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bfloat16" or (precision == "auto" and supported):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
