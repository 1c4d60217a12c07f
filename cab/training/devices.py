"""One device, or several processes with one each through Lightning Fabric, which is imported when it is asked for.

With several, each step's batch is dealt out and the gradients are averaged, and each process validates and tests its
share. All else is computed alike in each, so the first alone writes and tells. Their generators are seeded anew at
every step, so that no generator's state of theirs need be kept.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from cab.contracts.task import Batch
from cab.errors import UsageError

T = TypeVar("T")
Losses = Callable[[Batch], tuple[Tensor, Tensor]]  # a batch's own loss, detached, and what is to be minimised


class Alone:
    """The only process: nothing is dealt out, added up or waited for."""

    rank, size = 0, 1

    def device(self, name: str) -> torch.device:
        """Return this process's device."""
        return torch.device(name)

    def share(self, things: Sequence[T]) -> list[T]:
        """Return this process's of all things."""
        return list(things[self.rank :: self.size])

    def gathered(self, thing: T) -> list[T]:
        """Return what each process has in this one's place."""
        return [thing]

    def summed(self, t: Tensor) -> Tensor:
        """Add up a tensor over the processes."""
        return t

    def joined(self, lesson: nn.Module) -> Losses:
        """Return a model's losses in such a form that `backward` sees to every process's gradients."""
        return lesson

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, of all processes."""
        loss.backward()  # type: ignore[no-untyped-call]

    def within(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context of one piece of a batch: the gradients are exchanged with the last."""
        return nullcontext()

    def reseed(self, seed: int, step: int) -> None:
        """Let several processes draw differently. One goes on drawing from where the last step left the generator."""


class Several(Alone):
    """One of several processes."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size

    def device(self, name: str) -> torch.device:
        return self.fabric.device  # type: ignore[no-any-return]

    def gathered(self, thing: T) -> list[T]:
        return [self.fabric.broadcast(thing, src=rank) for rank in range(self.size)]

    def summed(self, t: Tensor) -> Tensor:
        return self.fabric.all_reduce(t, reduce_op="sum")  # type: ignore[no-any-return]

    def joined(self, lesson: nn.Module) -> Losses:
        self.module = self.fabric.setup_module(_Given(lesson))
        return lambda batch: self.module(lambda: batch)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(self.size * loss)  # a sum over the processes is asked for, and a mean is taken

    def within(self, last: bool) -> AbstractContextManager[Any]:
        return self.fabric.no_backward_sync(self.module, enabled=not last)  # type: ignore[no-any-return]

    def reseed(self, seed: int, step: int) -> None:
        torch.manual_seed((seed * 1_000_003 + step) * 1_009 + self.rank)


class _Given(nn.Module):
    """Takes its batch from a function, because Fabric takes data classes apart."""

    def __init__(self, lesson: nn.Module) -> None:
        super().__init__()
        self.lesson = lesson

    def forward(self, batch: Callable[[], Batch]) -> Any:
        return self.lesson(batch())


def launch(count: int, device: str, job: Callable[[Alone], T]) -> T:
    """Run `job` in `count` processes and return what the first returned, which must be JSON; of one, in this process.

    They are forked: nothing may have been computed here before, on no device.
    """
    if count == 1:
        return job(Alone())
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        message = f"training.devices={count} needs Lightning Fabric: pip install 'cab-bench[devices]'"
        raise UsageError(message) from error
    if device not in ("cpu", "cuda"):
        raise UsageError(f"training.devices={count} with device={device}: give device=cpu or device=cuda")
    if device == "cuda" and torch.cuda.device_count() < count:
        raise UsageError(f"training.devices={count}: this machine has {torch.cuda.device_count()} CUDA devices")
    with tempfile.TemporaryDirectory(prefix="cab-") as folder:
        answer = Path(folder, "answer")

        def work(fabric: Any) -> None:
            found = job(Several(fabric))
            if fabric.global_rank == 0:  # not through Fabric's pipe: it is read too late for more than fits into it
                answer.write_text(json.dumps(found))

        try:
            Fabric(accelerator=device, devices=count, strategy=DDPStrategy(start_method="fork")).launch(work)
        except ProcessRaisedException as error:
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        return json.loads(answer.read_text())  # type: ignore[no-any-return]
