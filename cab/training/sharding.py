"""Fully sharded data parallelism by PyTorch's FSDP2: each process keeps a share of every weight.

It keeps the same share of the weight's gradient and of the optimiser's state. The weights are gathered for a step's
forward and backward passes and for a scoring, all at once, whatever modules a task calls, and dropped afterwards.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cab.contracts.task import Batch
from cab.errors import Unsupported
from cab.training.devices import FabricProcess, LazyBatch, ObjectiveFunction


class ShardingProcess(FabricProcess):
    """One of several processes that Lightning Fabric has launched, with a share of the model."""

    module: Any  # what FSDP2 has sharded: the objective, and in it the model

    def data_parallel(self, objective: nn.Module) -> ObjectiveFunction:
        scalars = [name for name, parameter in objective.named_parameters() if not parameter.ndim]
        if scalars:
            raise Unsupported(f"sharding=fsdp: FSDP2 cannot share out {scalars[0]}, a parameter without axes")
        mesh = init_device_mesh(self.fabric.device.type, (self.size,))
        self.module = fully_shard(LazyBatch(objective), mesh=mesh)
        module: Callable[[Callable[[], Batch]], tuple[Tensor, Tensor]] = self.module
        return lambda batch: module(lambda: batch)

    def backward(self, loss: Tensor) -> None:
        (self.size * loss).backward()  # type: ignore[no-untyped-call]  # FSDP2 averages, and the sum is needed

    @contextmanager
    def gradient_sync(self, enabled: bool) -> Iterator[None]:
        # Processes may have different numbers of pieces: the weights are gathered at the first, and the gradients
        # exchanged at the last, so that the collective operations are as many in all of them.
        self.module.set_requires_gradient_sync(enabled)
        self.module.set_reshard_after_backward(enabled)
        if enabled:  # as DDP does: what a mechanism gathers in buffers is the first process's
            self.share_buffers(self.module)
        yield

    @contextmanager
    def whole_weights(self) -> Iterator[None]:
        self.module.unshard()
        try:
            yield
        finally:
            self.module.reshard()

    def gather_shards(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}

    def shard_like(self, tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shards = dict(tensors)
        for name, t in tensors.items():
            like = kept.get(name)
            if isinstance(like, DTensor):  # every process has the whole tensor: none is sent
                whole = t.to(like.device)
                shards[name] = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)
        return shards

    def agree(self, flag: bool) -> bool:
        agreed: bool = self.fabric.broadcast(flag, src=0)
        return agreed
