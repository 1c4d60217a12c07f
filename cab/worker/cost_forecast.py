"""What a case would take, counted on meta tensors before anything runs. Imports torch.

Operations come from the FLOP counter, peak memory from a dispatch mode that follows every storage. The mode misses the
workspaces of kernels (a quarter of SDPA's backward), and on meta tensors SDPA is decomposed: this is a forecast, never
a result.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cab.contracts.case import Case
from cab.contracts.messages import CaseForecast, ForecastAnswer
from cab.instruments.flop_counter import count_flops
from cab.worker.peak_throughput import matmul_rate


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all live storages (`held`), and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = self.peak = 0
        self._live: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        self._live.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._live.discard(key)
        self.held -= size


def forecast(case: Case, build: Callable[[Case], Any]) -> CaseForecast:
    """Return the FLOPs of one pass and its peak bytes; `build` returns a case's workload."""
    # the counter sees products alone, and an optimiser step has none beside those of the gradients
    pass_ = "forward_backward" if case.pass_ == "train" else case.pass_
    on_meta = build(case).twin(pass_=pass_, device="meta", backend="eager")
    flops = count_flops(on_meta.run)
    with Allocations() as allocations:
        on_meta.run()
    return CaseForecast(flops, float(allocations.peak))


def forecasts(cases: Sequence[Case], threads: int, build: Callable[[Case], Any]) -> ForecastAnswer:
    """Return the forecast of each case, or why there is none, and the machine's rate."""
    by_id: dict[str, CaseForecast] = {}
    for case in cases:
        try:
            by_id[case.id] = forecast(case, build)
        except Exception as error:  # a plug-in's: it costs its own estimate
            by_id[case.id] = CaseForecast(reason=f"{type(error).__name__}: {error}".splitlines()[0])
    torch.set_num_threads(threads)
    return ForecastAnswer(by_id, matmul_rate(torch.float32, "cpu", sizes=(512,), seconds=0.5))
