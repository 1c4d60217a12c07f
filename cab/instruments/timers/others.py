"""Other people's timers, each as its maker meant it: its own warm-up, stop rule and state of the caches."""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from cab.errors import Unsupported
from cab.instruments.timers.own import Timing

_numbers = count()
SECONDS = 0.1  # of samples that PyTorch's timer takes, about as long as ours


def by_torch(call: Callable[[], Any], device: Any) -> Timing:
    """`torch.utils.benchmark`: blocks of calls that take at least a hundred times its overhead; no cache is flushed."""
    import torch
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=SECONDS)
    return Timing(list(measured.times), measured.number_per_run, stop="torch")


def by_triton(call: Callable[[], Any], device: Any) -> Timing:
    """`triton.testing.do_bench`: events around each call, the second-level cache flushed."""
    _need_cuda("triton", device)
    try:
        from triton.testing import do_bench
    except ImportError as error:
        raise Unsupported("timer=triton: the package triton is not installed") from error
    import torch

    with torch.cuda.device(device):
        return Timing([ms / 1e3 for ms in do_bench(call, return_mode="all")], stop="triton")


def by_nvbench(call: Callable[[], Any], device: Any) -> Timing:
    """NVBench's cold measurement: cache flushed, throttled samples dropped, its own stop rule."""
    _need_cuda("nvbench", device)
    try:
        import cuda.bench as nvbench
        from cuda.bench.results import BenchmarkResult
    except ImportError as error:
        raise Unsupported(f"timer=nvbench: the package cuda-bench does not import: {error}") from error
    import torch

    def launch(on: Any) -> None:
        stream = torch.cuda.ExternalStream(on.get_stream().addressof(), device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            call()

    def cab(state: Any) -> None:
        state.exec(launch, sync=True)  # the pass may wait for the device itself

    name = f"cab {next(_numbers)}"  # what was registered before stays so, and would be run again
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.json"
        nvbench.register(cab).set_name(name)
        chosen = ["--benchmark", name, "--devices", str(device.index or 0)]
        nvbench.run_all_benchmarks(["cab", *chosen, "--jsonbin", str(file)])
        (state,) = (state for bench in BenchmarkResult.from_json(file).values() for state in bench)
        if state.is_skipped or not state.samples:
            raise Unsupported(f"timer=nvbench: {state.skip_reason or 'no samples'}")
        return Timing(list(state.samples), stop="nvbench")


def _need_cuda(name: str, device: Any) -> None:
    if device.type != "cuda":
        raise Unsupported(f"timer={name} measures on CUDA only, not on {device}; on the CPU there are own and torch")
