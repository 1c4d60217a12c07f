"""Timers: a call's duration, many times over, in one process; `timer=NAME` chooses. Torch is imported on call alone.

A timer is a function of the call and its device that returns a `Timing`; `Unsupported` says why it cannot run here.
"""

from collections.abc import Callable
from typing import Any

from cab.errors import Unsupported
from cab.instruments.timers.cuda import graphed, on_cuda
from cab.instruments.timers.others import by_nvbench, by_torch, by_triton
from cab.instruments.timers.own import Timing, collector_at_rest, on_cpu

__all__ = ["TIMERS", "Timing", "collector_at_rest", "on_cpu", "on_cuda"]


def _own(call: Callable[[], Any], device: Any) -> Timing:
    """Ours: until the median is known, by the wall clock on the CPU, by events on a GPU."""
    return on_cuda(call, device) if device.type == "cuda" else on_cpu(call)


def _graph(call: Callable[[], Any], device: Any) -> Timing:
    """Ours, of the pass replayed as one CUDA graph: without what Python and the launches of kernels cost."""
    if device.type != "cuda":
        raise Unsupported(f"timer=graph replays a CUDA graph, which {device} has not")
    return on_cuda(graphed(call, device), device)


TIMERS: dict[str, Callable[[Callable[[], Any], Any], Timing]] = {
    "own": _own,
    "graph": _graph,
    "torch": by_torch,
    "triton": by_triton,
    "nvbench": by_nvbench,
}
