"""A small case, its workloads, and a task and a mechanism for them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from cab.mechanisms.softmax import Softmax
from cab.tasks.speed import Speed
from torch import Tensor, nn

from cab import Batch, Mechanism, Pattern, Slot, Source, Task
from cab.contracts.case import Case
from cab.ops.softmax import masked_softmax, visible
from cab.worker.workload import Workload, build

CASE = Case(
    mechanism="softmax",
    params={},
    pattern="NS",
    task="speed",
    task_params={},
    n=40,
    m=40,
    batch=3,
    heads=2,
    dim=8,
    dtype="float32",
    device="cpu",
    backend="eager",
    level="attend",
    pass_="forward",
    seed=0,
    scale="quick",
)
RECIPE = {"steps": 10, "lr": 0.1}


class Twin(Mechanism):
    """Softmax in every pattern. Faulty mechanisms derive from it."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return masked_softmax((q @ k.transpose(-1, -2)) * self.slot.dim**-0.5, seen) @ v

    reference = attend


class Counting(Task):
    """Counts a token: an encoder of one attention layer, and one cross-attention layer on the same tokens."""

    slots = ("CS",)
    metrics = {"error": ("fraction", False)}
    read = 0  # how often a split was read

    def source(self, folder: Path) -> Source:
        return Source("made up", False, {"train": 5})

    def split(self, name: str, seed: int) -> list[int]:
        type(self).read += 1
        return list(range(5))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        ids = torch.tensor([[(i * i + j) % 7 for j in range(self.seq_len)] for i in examples])
        return Batch(ids, target=(ids == 3).sum(1).float())

    def model(self, attention: Any) -> nn.Module:
        return Counter(*(attention(Slot(p, heads=2, dim=8, max_len=self.seq_len)) for p in (Pattern.CS, Pattern.CC)))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.x) - batch.target).square().mean()


class Counter(nn.Module):
    """Counts by an attention layer, a cross-attention layer and the mean over tokens."""

    def __init__(self, own: nn.Module, cross: nn.Module) -> None:
        super().__init__()
        self.embed, self.own, self.cross, self.out = nn.Embedding(7, 16), own, cross, nn.Linear(16, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.out(self.cross(self.own(x), y=x).mean(1))[:, 0]


def make_workload(mechanism: type[Mechanism] = Softmax, task: type[Task] = Speed, **changes: Any) -> Workload:
    """Set up `CASE` with some fields changed; in self patterns m is n."""
    if Pattern.of(changes.get("pattern", "NS")).cross:
        changes.setdefault("m", 23)
    elif "n" in changes:
        changes["m"] = changes["n"]
    return build(replace(CASE, **changes), task, mechanism, Softmax, Path("data"))
