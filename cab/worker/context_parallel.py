"""Context parallel: one attention in several processes, each with a device and a share of the tokens.

PyTorch divides `F.scaled_dot_product_attention`: each process computes the rows of its queries, and what it lacks of
the keys and values travels. On CUDA they go round in a ring; on the CPU each process gathers all of them. The first
process times and tells the others when to compute, over pipes: this signal is part of the time.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import _cp_options

from cab.errors import Wrong
from cab.training import OneProcess
from cab.worker.workload import Workload

TOKENS_AXIS = 2  # of q, k and v, (batch, heads, tokens, size)
_AGAIN, _END = b"1", b"0"  # signals of the first process


class Signals:
    """A pipe from the first process to each of the others; made before these are forked."""

    def __init__(self, count: int) -> None:
        self._pipes = [os.pipe() for _ in range(count)]

    def send(self, signal: bytes) -> None:
        """Let the other processes go on."""
        for _, end in self._pipes:
            os.write(end, signal)

    def wait(self, rank: int) -> bytes:
        """Return the next signal of the first process to the one of this rank."""
        return os.read(self._pipes[rank - 1][0], 1)


class DividedWorkload:
    """What a meter measures in the first process: a call makes all processes compute."""

    calls, has_run = 1, True

    def __init__(self, workload: Workload, run: Callable[[], Tensor]) -> None:
        self.device, self.run = workload.device, run


@contextmanager
def divided(workload: Workload, processes: OneProcess, signals: Signals) -> Iterator[DividedWorkload | None]:
    """Divide a forward pass of softmax attention over the processes; yields None in all but the first.

    These compute inside the context, as often as the first does. `Wrong` in all where one's rows are not those of the
    undivided pass, within the square root of the dtype's epsilon, of the largest value.
    """
    whole: Tensor = workload.run()
    rows = whole.shape[TOKENS_AXIS] // processes.size
    expected = whole.narrow(TOKENS_AXIS, processes.rank * rows, rows)
    _cp_options.enable_load_balance = False  # it is for causal masks, and PyTorch refuses it without one
    mesh = init_device_mesh(workload.device.type, (processes.size,))
    tensors = workload.leaves
    axes = [TOKENS_AXIS] * len(tensors)
    with context_parallel(mesh, buffers=tensors, buffer_seq_dims=axes, no_restore_buffers=set(tensors)):
        error = (workload.run() - expected).abs().max().item()
        error, limit = max(processes.all_gather(error)), torch.finfo(whole.dtype).eps ** 0.5 * whole.abs().max().item()
        if not error <= limit:  # NaN is not
            raise Wrong(
                f"context_parallel={processes.size}: its rows differ by {error:.3g} from those of one process; "
                f"at most {limit:.3g} is rounding"
            )
        if processes.rank:
            yield None
            while signals.wait(processes.rank) == _AGAIN:
                workload.run()
            return

        def run() -> Any:
            signals.send(_AGAIN)
            return workload.run()

        try:
            yield DividedWorkload(workload, run)
        finally:
            signals.send(_END)
