"""A task whose training kills a process, once, at a given step, and which logs every step that was made."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Batch, Pattern, Slot, Source, Task


class KillingTask(Task):
    """Which of two tokens is larger? `victim` is killed at step `at`: the child, the server or the command.

    The log counts the steps of all processes together, so that a training that resumes kills nothing.
    """

    metrics = {"accuracy": ("fraction", True)}

    def __init__(self, *, seq_len: int, victim: str = "none", at: int = 13) -> None:
        super().__init__(seq_len=seq_len)
        self.victim, self.at = victim, at

    def source(self, folder: Path) -> Source:
        self.log = folder / "steps.log"
        return Source("generated", False, {})

    def split(self, name: str, seed: int) -> list[list[int]]:
        draw = random.Random(name)
        return [[draw.randrange(9) for _ in range(self.seq_len)] for _ in range(40)]

    def collate(self, examples: Any, trim: bool = False) -> Batch:
        x = torch.tensor(examples)
        return Batch(x, target=(x[:, 0] > x[:, 1]).long())

    def model(self, attention: Any) -> nn.Module:
        parts = {"tokens": nn.Embedding(9, 4), "attention": attention(Slot(Pattern.NS, 1, 4, self.seq_len))}
        return nn.ModuleDict({**parts, "dropout": nn.Dropout(0.2), "head": nn.Linear(4, 2)})

    def _logits(self, model: Any, batch: Batch) -> Tensor:
        x = model["tokens"](batch.x)
        return model["head"](model["dropout"](x + model["attention"](x)).flatten(1)[:, :4])  # type: ignore

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        with self.log.open("a") as log:
            log.write("x\n")
        if self.victim != "none" and self.log.stat().st_size == 2 * self.at:
            server = os.getppid()
            command = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill({"child": os.getpid(), "server": server, "command": command}[self.victim], signal.SIGKILL)
            signal.pause()
        return F.cross_entropy(self._logits(model, batch), batch.target)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"accuracy": (self._logits(model, batch).argmax(-1) == batch.target).float()}
