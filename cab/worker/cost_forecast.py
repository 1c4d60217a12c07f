"""What a case would take, before it is paid: counted on meta tensors in a child. Imports torch.

Operations come from the counter, peak memory from a dispatch mode that follows every storage on meta tensors. The
mode misses kernels' workspaces (a quarter of SDPA's backward), and on meta tensors SDPA is written out: a forecast,
never a result.
"""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cab.contracts.case import Case
from cab.instruments.flop_counter import count_flops
from cab.worker.peak_throughput import matmul_rate


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of the storages that live, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.held -= size


def forecast(case: Case, workload: Callable[[Case], Any]) -> dict[str, float]:
    """Return the FLOPs of one pass and its peak bytes; `workload` sets a case up on meta tensors."""
    # the counter sees products alone: a step counts as its gradients do
    pass_ = "forward_backward" if case.pass_ == "train" else case.pass_
    built = workload(case).twin(pass_=pass_, device="meta", backend="eager")
    flops = count_flops(built.run)
    with Allocations() as allocations:
        built.run()
    return {"flops": flops, "bytes": float(allocations.peak)}


def forecasts(cases: list[Case], data: Path, threads: int, build: Callable[[Case, Path], Any]) -> dict[str, Any]:
    """Return case id -> FLOPs and bytes (or why there are none), and the machine's rate."""
    found: dict[str, Any] = {}
    for case in cases:
        try:
            found[case.id] = forecast(case, lambda case: build(case, data))
        except Exception as error:  # a plug-in's: it costs its own estimate
            found[case.id] = {"reason": f"{type(error).__name__}: {error}".splitlines()[0]}
    torch.set_num_threads(threads)
    return {"cases": found, "rate": matmul_rate(torch.float32, "cpu", sizes=(512,), seconds=0.5)}
