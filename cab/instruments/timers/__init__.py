"""Timers: each times a call many times in one process; `timer=NAME` chooses one. Torch is imported inside calls only.

A timer is a function of the call and its device that returns a `Timing`. It raises `Unsupported`, with the reason,
where it cannot run.
"""

from collections.abc import Callable
from typing import Any

from cab.errors import Unsupported
from cab.instruments.timers.cuda import graph_replay, on_cuda
from cab.instruments.timers.own import Timing, garbage_collector_off, on_cpu
from cab.instruments.timers.third_party import by_nvbench, by_torch, by_triton

__all__ = ["TIMERS", "Timing", "garbage_collector_off", "on_cpu", "on_cuda"]


def _own(call: Callable[[], Any], device: Any) -> Timing:
    """Time by this project's timer: the wall clock on the CPU, CUDA events on a GPU."""
    return on_cuda(call, device) if device.type == "cuda" else on_cpu(call)


def _graph(call: Callable[[], Any], device: Any) -> Timing:
    """Time the call as one CUDA graph by `own`: its replay has no overhead of Python and of single kernel launches."""
    if device.type != "cuda":
        raise Unsupported(f"timer=graph replays a CUDA graph, which {device} has not")
    return on_cuda(graph_replay(call, device), device)


TIMERS: dict[str, Callable[[Callable[[], Any], Any], Timing]] = {
    "own": _own,
    "graph": _graph,
    "torch": by_torch,
    "triton": by_triton,
    "nvbench": by_nvbench,
}
