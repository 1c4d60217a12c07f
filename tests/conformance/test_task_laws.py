"""The laws of tasks bite: each planted fault breaks the law that names it, and the task without it none."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Pattern, Slot, Source, Task
from cab.conformance.task_laws import TASK_LAWS, TaskSubject, check_task


class Largest(Task):
    """Which of two halves holds the larger sum?"""

    metrics = {"accuracy": ("fraction", True)}

    def __init__(self, *, seq_len: int = 12) -> None:
        super().__init__(seq_len=seq_len)

    def source(self, folder: Path) -> Source:
        return Source("made up", False, {})

    def split(self, name: str, seed: int) -> Any:
        return [self.item(random.Random(f"{name} {seed} {i}")) for i in range(30)]

    def item(self, draw: random.Random) -> list[int]:
        return [draw.randrange(1, 9) for _ in range(draw.randrange(4, self.seq_len + 1))]

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        length = max(map(len, examples)) if trim else self.seq_len
        x = torch.tensor([[*example, *[0] * (length - len(example))] for example in examples])
        return Batch(x, x > 0, target=torch.tensor([sum(e[: len(e) // 2]) > sum(e[len(e) // 2 :]) for e in examples]))

    def model(self, attention: Any) -> nn.Module:
        parts = {"tokens": nn.Embedding(10, 8), "attention": attention(Slot(self.slot(), 2, 4, self.seq_len))}
        return nn.ModuleDict({**parts, "head": nn.Linear(8, 2)})

    def slot(self) -> Pattern:
        return Pattern.NS

    def logits(self, model: Any, batch: Batch) -> Tensor:
        x = model["tokens"](batch.x)
        x = x + model["attention"](x, batch.x_mask)
        real = batch.x_mask.unsqueeze(-1)
        return model["head"]((x * real).sum(1) / real.sum(1))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(model, batch), batch.target.long())

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (self.logits(model, batch).argmax(-1) == batch.target).float()}

    def floors(self) -> dict[str, dict[str, float]]:
        return {"chance": {"accuracy": 0.5}}


class GlobalGenerator(Largest):
    def split(self, name: str, seed: int) -> Any:
        return [torch.randint(1, 9, (8,)).tolist() for _ in range(30)]


class DrawsInABatch(Largest):
    """Puts noise into a batch, from a generator that everything else draws from, too."""

    draw = staticmethod(lambda: torch.randint(1, 9, ()))

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        batch = super().collate(examples, trim)
        return Batch(batch.x.masked_fill(batch.x == 4, int(self.draw())), batch.x_mask, target=batch.target)


class DrawsFromNumpy(DrawsInABatch):
    draw = staticmethod(lambda: np.random.randint(1, 9))


class DrawsFromPython(DrawsInABatch):
    draw = staticmethod(lambda: random.randrange(1, 9))


class DrawsFromNothingSeeded(DrawsInABatch):
    draw = staticmethod(lambda: np.random.default_rng().integers(1, 1 << 60))


class SharedExamples(Largest):
    def split(self, name: str, seed: int) -> Any:
        return super().split("train", seed)


class MaskOfIntegers(Largest):
    def collate(self, examples: Any, trim: bool = False) -> Batch:
        batch = super().collate(examples, trim)
        return Batch(batch.x, (batch.x > 0).int(), target=batch.target)


class PaddingCounts(Largest):
    def logits(self, model: Any, batch: Batch) -> Tensor:
        return super().logits(model, batch) + 100 * torch.tensor([batch.x.shape[1] - 9.0, 0.0])

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        return super().collate([example[:8] for example in examples], trim)


class LossOfABatch(Largest):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return F.cross_entropy(self.logits(model, batch), batch.target.long(), reduction="none")


class MeanScore(Largest):
    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {name: values.mean() for name, values in super().score(model, batch).items()}


class MisspeltFloor(Largest):
    def floors(self) -> dict[str, dict[str, float]]:
        return {"chance": {"acuracy": 0.5}}


class AnotherSlot(Largest):
    def slot(self) -> Pattern:
        return Pattern.CS


FAULTS = {
    "items": GlobalGenerator,
    "splits": SharedExamples,
    "collate": MaskOfIntegers,
    "trimming": PaddingCounts,
    "loss": LossOfABatch,
    "score": MeanScore,
    "floors": MisspeltFloor,
    "slots": AnotherSlot,
}


def broken(cls: type[Task]) -> dict[str, str]:
    verdicts = check_task(TaskSubject(cls, Path("data"), "NS"))
    return {verdict.law: verdict.reason for verdict in verdicts if verdict.status == "fail"}


def test_a_task_without_a_fault_breaks_no_law() -> None:
    assert broken(Largest) == {}


@pytest.mark.parametrize("law", TASK_LAWS)
def test_a_planted_fault_breaks_the_law_that_names_it(law: str) -> None:
    assert law in broken(FAULTS[law]), broken(FAULTS[law])


@pytest.mark.parametrize(
    ("cls", "reason"),
    [
        (GlobalGenerator, "an item of train draws from torch.random, a global generator"),
        (DrawsInABatch, "a batch of `collate` draws from torch.random, a global generator"),
        (DrawsFromNumpy, "a batch of `collate` draws from numpy.random, a global generator"),
        (DrawsFromPython, "a batch of `collate` draws from random, a global generator"),
        (DrawsFromNothingSeeded, "a batch of `collate` is another one each time"),
    ],
)
def test_a_draw_from_a_global_generator_is_named(cls: type[Task], reason: str) -> None:
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
    assert reason in broken(cls)["items"]
    assert states == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
