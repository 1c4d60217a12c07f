"""This project's timer on a GPU: CUDA events around each call, a cold L2 cache, and the clock rate of each sample."""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from cab.errors import Unsupported
from cab.instruments.timers.own import MIN_SAMPLE_SECONDS, WINDOW_CALLS, Timing, stop_rule_holds, warm_up

THROTTLED = 0.9  # of the highest clock rate seen: samples taken below it are throttled


def on_cuda(call: Callable[[], Any], device: Any) -> Timing:
    """Time `call` on the GPU by events, each call with a cold L2 cache.

    Before each call a buffer of twice the cache's size is filled. That evicts what the call before left in the cache.
    It also keeps the GPU busy until the CPU has queued the call, so that the events enclose the kernels alone.
    """
    import torch

    flush_buffer, read_clock = _flush_buffer(device), _clock_reader(device)
    event = partial(torch.cuda.Event, enable_timing=True)

    def time_calls(count: int) -> list[float]:
        pairs = []
        for _ in range(count):
            start, end = event(), event()
            flush_buffer.zero_()
            start.record()
            call()
            end.record()
            pairs.append((start, end))
        torch.cuda.synchronize(device)
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]

    timing = Timing()
    torch.cuda.synchronize(device)
    durations = warm_up(timing, lambda: time_calls(1)[0])
    # short calls are timed in groups, with one synchronisation for each group
    group = max(1, min(10, int(MIN_SAMPLE_SECONDS * 5 / max(median(durations[-WINDOW_CALLS:]), 1e-9))))
    samples: list[tuple[float, float]] = []  # seconds, and the clock rate after the sample's group
    while not stop_rule_holds(timing):
        durations, clock_rate = time_calls(group), read_clock()
        samples += [(duration, clock_rate) for duration in durations]
        rates = [rate for _, rate in samples]
        threshold = THROTTLED * max(rates)
        timing.samples = [duration for duration, rate in samples if rate >= threshold]
        timing.throttled = [duration for duration, rate in samples if rate < threshold]
        timing.clocks = [min(rates), max(rates)] if max(rates) else []
    return timing


def graph_replay(call: Callable[[], Any], device: Any) -> Callable[[], None]:
    """Capture `call` in a CUDA graph and return its replay, which launches all kernels at once.

    `Unsupported` where the call cannot be captured.
    """
    import torch

    try:
        side_stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream(device))
        # PyTorch asks for a warm-up on a side stream before capture, so that one-time initialisation is not captured
        with torch.cuda.stream(side_stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream(device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        raise Unsupported(f"timer=graph: the pass cannot be captured: {str(error).splitlines()[0]}") from error
    return graph.replay


def _clock_reader(device: Any) -> Callable[[], float]:
    """Return a function that reads the clock rate of the multiprocessors in MHz; 0 where it cannot be read."""
    import torch

    def read() -> float:
        try:
            return float(torch.cuda.clock_rate(device))
        except Exception:  # nvidia-ml-py is missing (ModuleNotFoundError), or the driver does not tell (NVMLError)
            return 0.0

    return read if read() else lambda: 0.0


def _flush_buffer(device: Any) -> Any:
    """Allocate a buffer of twice the size of the L2 cache."""
    import torch

    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(2 * cache, dtype=torch.int8, device=device)
