"""Timers of other projects, each with its own warm-up, stop rule and treatment of the caches."""

import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from cab.errors import Unsupported
from cab.instruments.timers.own import Timing

_benchmark_numbers = count()
TORCH_SECONDS = 0.1  # for which PyTorch's timer samples: about as long as our own


def by_torch(call: Callable[[], Any], device: Any) -> Timing:
    """Time by `torch.utils.benchmark`: blocks of calls of at least 100 times its overhead; no cache is flushed."""
    import torch
    from torch.utils.benchmark import Timer

    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=TORCH_SECONDS)
    return Timing(list(measured.times), measured.number_per_run, stop="torch")


def by_triton(call: Callable[[], Any], device: Any) -> Timing:
    """Time by `triton.testing.do_bench`: events around each call, the L2 cache flushed."""
    _require_cuda("triton", device)
    try:
        from triton.testing import do_bench
    except ImportError as error:
        raise Unsupported("timer=triton: the package triton is not installed") from error
    import torch

    with torch.cuda.device(device):
        return Timing([ms / 1e3 for ms in do_bench(call, return_mode="all")], stop="triton")


def by_nvbench(call: Callable[[], Any], device: Any) -> Timing:
    """Time by NVBench's cold measurement: the L2 cache flushed, throttled samples dropped, its own stop rule."""
    _require_cuda("nvbench", device)
    try:
        import cuda.bench as nvbench
        from cuda.bench.results import BenchmarkResult
    except ImportError as error:
        raise Unsupported(f"timer=nvbench: the package cuda-bench does not import: {error}") from error
    import torch

    def launch(launcher: Any) -> None:
        stream = torch.cuda.ExternalStream(launcher.get_stream().addressof(), device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            call()

    def cab(state: Any) -> None:
        state.exec(launch, sync=True)  # the pass may itself synchronise with the device

    name = f"cab {next(_benchmark_numbers)}"  # a benchmark stays registered, so each needs a name of its own
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.json"
        nvbench.register(cab).set_name(name)
        selection = ["--benchmark", name, "--devices", str(device.index or 0)]
        nvbench.run_all_benchmarks(["cab", *selection, "--jsonbin", str(file)])
        (state,) = (state for bench in BenchmarkResult.from_json(file).values() for state in bench)
        if state.is_skipped or not state.samples:
            raise Unsupported(f"timer=nvbench: {state.skip_reason or 'no samples'}")
        return Timing(list(state.samples), stop="nvbench")


def _require_cuda(name: str, device: Any) -> None:
    if device.type != "cuda":
        raise Unsupported(f"timer={name} measures on CUDA only, not on {device}; on the CPU there are own and torch")
