"""Our own timer on a GPU: events around each call, a cold second-level cache, and the clock that it ran at."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from cab.errors import Unsupported
from cab.instruments.timers.own import SAMPLE, WINDOW, Timing, enough, warm

THROTTLED = 0.9  # of the highest clock seen: a sample taken below it is set apart


def on_cuda(call: Callable[[], Any], device: Any) -> Timing:
    """Time `call` on the GPU by events, each call with a cold second-level cache.

    Filling a buffer twice the cache's size before each call evicts what the last one left, and gives the CPU time to
    queue the call behind it, so that the events enclose the kernels and not the wait for them.
    """
    import torch

    flush, event, clock = _twice_the_cache(device), partial(torch.cuda.Event, enable_timing=True), _clock(device)

    def samples(count: int) -> list[float]:
        pairs = []
        for _ in range(count):
            start, end = event(), event()
            flush.zero_()
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize(device)
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    timing = Timing()
    torch.cuda.synchronize(device)
    durations = warm(timing, lambda: samples(1)[0])
    # one wait for several calls, but none for long ones
    group = max(1, min(10, int(SAMPLE * 5 / max(median(durations[-WINDOW:]), 1e-9))))
    taken: list[tuple[float, float]] = []  # seconds, and the clock of the group
    while not enough(timing):
        durations, speed = samples(group), clock()
        taken += [(duration, speed) for duration in durations]
        speeds = [speed for _, speed in taken]
        least = THROTTLED * max(speeds)
        timing.samples = [duration for duration, speed in taken if speed >= least]
        timing.throttled = [duration for duration, speed in taken if speed < least]
        timing.clocks = [min(speeds), max(speeds)] if max(speeds) else []
    return timing


def graphed(call: Callable[[], Any], device: Any) -> Callable[[], None]:
    """Capture `call` in a CUDA graph and return its replay, which launches all of its kernels at once."""
    import torch

    try:
        aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # as PyTorch asks: first calls elsewhere, so that nothing is set up in the graph
            for _ in range(3):
                call()
        torch.cuda.current_stream(device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        raise Unsupported(f"timer=graph: the pass cannot be captured: {str(error).splitlines()[0]}") from error
    return graph.replay


def _clock(device: Any) -> Callable[[], float]:
    """Return what reads the multiprocessors' clock in MHz; 0 where it cannot be read."""
    import torch

    def read() -> float:
        try:
            return float(torch.cuda.clock_rate(device))
        except Exception:  # nvidia-ml-py is missing (ModuleNotFoundError), or the driver does not say (NVMLError)
            return 0.0

    return read if read() else lambda: 0.0


def _twice_the_cache(device: Any) -> Any:
    import torch

    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(2 * cache, dtype=torch.int8, device=device)
