"""Data parallelism: one process, or several with one device each, through Lightning Fabric.

With several, each process takes its share of every batch, and their gradients are averaged. Each also scores its share
of the validation and test batches. Everything else is computed alike in all of them, and the first alone writes and
logs. Each reseeds its generator at every step, so that a checkpoint need not keep the state of every generator. Fabric
is imported only when several processes are asked for.

Each process has a copy of the model (DDP), or keeps a share of its weights, of their gradients and of the optimiser's
state (FSDP2, `cab.training.sharding`).
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from cab.contracts.task import Batch
from cab.errors import Unsupported, UsageError

T = TypeVar("T")
ObjectiveFunction = Callable[[Batch], tuple[Tensor, Tensor]]  # batch -> the task's loss, detached; the objective


class OneProcess:
    """The only process of a training: every collective operation is the identity."""

    rank, size = 0, 1  # of this process; of the group

    def device(self, name: str) -> torch.device:
        """Return this process's device."""
        return torch.device(name)

    def shard(self, items: Sequence[T]) -> list[T]:
        """Return this process's share of the items: every `size`-th, from `rank` on."""
        return list(items[self.rank :: self.size])

    def all_gather(self, item: T) -> list[T]:
        """Return the item of every process, in the order of their ranks."""
        return [item]

    def all_reduce_sum(self, t: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes."""
        return t

    def data_parallel(self, objective: nn.Module) -> ObjectiveFunction:
        """Wrap an objective, so that `backward` sums its gradients over the processes."""
        return objective

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of the sum of all processes' losses."""
        loss.backward()  # type: ignore[no-untyped-call]

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[Any]:
        """Return a context in which `backward` exchanges gradients, or only accumulates this process's own."""
        return nullcontext()

    def reseed(self, seed: int, step: int) -> None:
        """Let each of several processes draw its own numbers at a step. A single process keeps its generator."""

    def whole_weights(self) -> AbstractContextManager[Any]:
        """Return a context in which every process can compute with the whole model, without the others."""
        return nullcontext()

    def gather_shards(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whole of which each process may keep a share. All processes call it alike."""
        return dict(tensors)

    def shard_like(self, tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the shares of whole tensors that this process keeps of the tensors of the same names in `kept`."""
        return dict(tensors)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of the first, as running statistics: each has them of its own examples."""

    def agree(self, flag: bool) -> bool:
        """Return the first process's flag, where all must do alike what follows; else the process's own."""
        return flag


ONE_PROCESS = OneProcess()


class FabricProcess(OneProcess):
    """One of several processes of a training that Lightning Fabric has launched."""

    def __init__(self, fabric: Any) -> None:
        self.fabric, self.rank, self.size = fabric, fabric.global_rank, fabric.world_size

    def device(self, name: str) -> torch.device:
        return self.fabric.device  # type: ignore[no-any-return]

    def all_gather(self, item: T) -> list[T]:
        return [self.fabric.broadcast(item, src=rank) for rank in range(self.size)]

    def all_reduce_sum(self, t: Tensor) -> Tensor:
        return self.fabric.all_reduce(t, reduce_op="sum")  # type: ignore[no-any-return]

    def data_parallel(self, objective: nn.Module) -> ObjectiveFunction:
        self.module = self.fabric.setup_module(LazyBatch(objective))
        return lambda batch: self.module(lambda: batch)

    def backward(self, loss: Tensor) -> None:
        self.fabric.backward(self.size * loss)  # gradients are averaged over the processes, and the sum is needed

    def gradient_sync(self, enabled: bool) -> AbstractContextManager[Any]:
        return self.fabric.no_backward_sync(self.module, enabled=not enabled)  # type: ignore[no-any-return]

    def share_buffers(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)

    def reseed(self, seed: int, step: int) -> None:
        torch.manual_seed((seed * 1_000_003 + step) * 1_009 + self.rank)


class LazyBatch(nn.Module):
    """Takes its batch from a function: Fabric and FSDP2 would take a data class apart, and leave a function alone."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, batch: Callable[[], Batch]) -> Any:
        return self.objective(batch())


def launch(
    count: int,
    device: str,
    job: Callable[[OneProcess], T],
    sharding: str | None = None,
    key: str = "training.devices",
) -> T:
    """Run `job` in `count` processes, and return what it returns in the first, which must be JSON.

    One process is this one; several are forked from it, so no tensor may have been computed before. With
    `sharding="fsdp"` each keeps a share of the model, else a copy. `key` asked for them: messages name it.
    """
    if count == 1:
        return job(OneProcess())
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.strategies.ddp import DDPStrategy
    except ImportError as error:
        message = f"{key}={count} needs Lightning Fabric: pip install 'cab-bench[devices]'"
        raise UsageError(message) from error
    if device not in ("cpu", "cuda"):
        raise UsageError(f"{key}={count} with device={device}: give device=cpu or device=cuda")
    if device == "cuda" and torch.cuda.device_count() < count:
        raise UsageError(f"{key}={count}: this machine has {torch.cuda.device_count()} CUDA devices")
    with tempfile.TemporaryDirectory(prefix="cab-") as folder:
        answer_file = Path(folder, "answer")

        def run_job(fabric: Any) -> None:
            try:
                content: dict[str, Any] = {"answer": job(_process(fabric, sharding))}
            except (Unsupported, UsageError) as error:  # of all processes alike: what was asked is refused
                content = {"refusal": type(error).__name__, "reason": str(error)}
            if fabric.global_rank == 0:  # Fabric's own pipe blocks on answers larger than its buffer: a file does not
                answer_file.write_text(json.dumps(content))

        try:
            Fabric(accelerator=device, devices=count, strategy=DDPStrategy(start_method="fork")).launch(run_job)
        except ProcessRaisedException as error:
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        content = json.loads(answer_file.read_text())
    if "refusal" in content:
        raise {"Unsupported": Unsupported, "UsageError": UsageError}[content["refusal"]](content["reason"])
    return content["answer"]  # type: ignore[no-any-return]


def _process(fabric: Any, sharding: str | None) -> FabricProcess:
    if sharding is None:
        return FabricProcess(fabric)
    from cab.training.sharding import ShardingProcess  # torch.distributed.fsdp takes a second to import

    return ShardingProcess(fabric)
