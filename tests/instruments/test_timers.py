"""Each timer on calls of known duration; those that need a GPU on fakes."""

import gc
import random
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from cab import Unsupported
from cab.instruments import timers
from cab.instruments.timers import cuda, own
from cab.planning import schema
from cab.planning.overrides import root

# This project's timer, on a fake clock


class FakeClock:
    """Advances in calls only: the i-th takes `durations(i)` seconds."""

    def __init__(self, durations: Any) -> None:
        self.now, self.calls, self.durations = 0, 0, durations

    def __call__(self) -> int:
        return self.now

    def call(self) -> None:
        self.now += round(self.durations(self.calls) * 1e9)
        self.calls += 1


def timed(durations: Any) -> tuple[timers.Timing, FakeClock]:
    clock = FakeClock(durations)
    return timers.on_cpu(clock.call, clock), clock


def test_a_steady_call_is_sampled_in_groups_until_its_median_is_known() -> None:
    timing, clock = timed(lambda i: 1e-4)
    assert timing.samples == pytest.approx([1e-4] * len(timing.samples))
    assert (timing.stop, timing.steady) == ("precision", True)
    assert timing.iterations * 1e-4 >= own.MIN_SAMPLE_SECONDS
    assert timing.warm_up * 1e-4 >= own.WARM_UP_SECONDS[0]
    assert clock.calls == timing.warm_up + timing.iterations * len(timing.samples)
    assert clock.now / 1e9 < 0.06


def test_slow_first_calls_are_warm_up_and_no_sample() -> None:
    timing, _ = timed(lambda i: 1e-3 * (1 + 2 * 0.8**i))
    assert timing.steady and timing.warm_up > 20
    assert max(timing.samples) < 1.02e-3


def test_a_noisy_call_is_stopped_by_time() -> None:
    draw = random.Random(0)
    timing, clock = timed(lambda i: draw.choice([1e-3, 3e-3]))
    assert timing.stop == "time" and sum(timing.samples) * timing.iterations >= own.SAMPLING_SECONDS[1]
    assert clock.now / 1e9 < 0.2


def test_a_long_call_is_measured_twice_and_a_very_long_one_once() -> None:
    timing, _ = timed(lambda i: 0.2)
    assert (timing.warm_up, len(timing.samples), timing.iterations, timing.stop) == (0, 2, 1, "time")
    timing, _ = timed(lambda i: 20.0)
    assert (timing.warm_up, len(timing.samples), timing.stop) == (0, 1, "time")


def test_the_garbage_collector_rests_while_the_clock_runs_and_is_as_before_afterwards() -> None:
    states = []
    assert gc.isenabled()
    timers.on_cpu(lambda: states.append(gc.isenabled()))
    assert gc.isenabled() and not any(states)
    with pytest.raises(ZeroDivisionError):
        timers.on_cpu(lambda: 1 / 0)
    assert gc.isenabled()


class FakeGpu:
    """Logs flushes, events and calls in order. Its clock rate after i calls is `clock_rate(i)` MHz."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, durations: Any, clock_rate: Any = lambda i: 1000) -> None:
        self.log: list[str] = []
        self.clock = FakeClock(durations)
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                gpu.log.append("record")
                self.at = gpu.clock.now

            def elapsed_time(self, end: "Event") -> float:
                assert gpu.log[-1] == "synchronize"
                return (end.at - self.at) / 1e6  # milliseconds

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.log.append("synchronize"))
        monkeypatch.setattr(torch.cuda, "clock_rate", lambda device: clock_rate(self.clock.calls))
        flush = SimpleNamespace(zero_=lambda: self.log.append("flush"))
        monkeypatch.setattr(cuda, "_flush_buffer", lambda device: flush)

    def call(self) -> None:
        self.log.append("call")
        self.clock.call()


def test_cuda_is_timed_by_events_around_each_call_after_a_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch, lambda i: 1e-3)
    timing = timers.TIMERS["own"](gpu.call, torch.device("cuda"))
    assert timing.samples == pytest.approx([1e-3] * len(timing.samples)) and timing.stop == "precision"
    assert (timing.clocks, timing.throttled) == ([1000, 1000], [])
    assert "".join({"flush": "f", "record": "r", "call": "c", "synchronize": ""}[word] for word in gpu.log) == (
        "frcr" * gpu.clock.calls
    )


def test_samples_at_a_throttled_clock_are_set_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second group of ten calls after the warm-up runs at a lower clock, and takes longer."""
    # the clock rate is read once before the first call, and then after each group; calls count from 0
    gpu = FakeGpu(
        monkeypatch,
        # 10 calls of warm-up, then calls that alternate between two durations, but for the throttled ones
        lambda i: 1e-3 if i < 10 else 2e-3 if 20 <= i < 30 else 1e-3 + i % 2 * 1e-4,
        lambda i: 700 if i == 30 else 1000,
    )
    timing = timers.on_cuda(gpu.call, "cuda")
    assert timing.warm_up == 10 and timing.throttled == pytest.approx([2e-3] * 10) and timing.clocks == [700, 1000]
    assert max(timing.samples) == pytest.approx(1.1e-3)


def test_a_clock_that_cannot_be_read_sets_nothing_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(i: int) -> int:
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    timing = timers.on_cuda(FakeGpu(monkeypatch, lambda i: 1e-3, missing).call, "cuda")
    assert timing.samples and (timing.clocks, timing.throttled) == ([], [])


# The timers of other projects


def test_the_keys_of_the_command_line_name_every_timer() -> None:
    assert schema.TIMERS == tuple(timers.TIMERS)
    assert all(name in timers.TIMERS for name in [root()["timer"]])


def test_pytorchs_timer_gives_its_blocks() -> None:
    calls: list[int] = []
    timing = timers.TIMERS["torch"](lambda: calls.append(1), torch.device("cpu"))
    assert timing.stop == "torch" and 0 < min(timing.samples) <= max(timing.samples) < 1e-3
    assert len(calls) >= timing.iterations * len(timing.samples)


@pytest.mark.parametrize("name", ["graph", "triton", "nvbench"])
def test_what_needs_a_gpu_says_so_and_never_times_by_another_clock(name: str) -> None:
    with pytest.raises(Unsupported, match=rf"timer={name}.*(CUDA|cpu)"):
        timers.TIMERS[name](lambda: pytest.fail("called"), torch.device("cpu"))


@pytest.mark.parametrize("name", ["triton", "nvbench"])
def test_a_timer_whose_package_is_missing_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("triton", "triton.testing", "cuda", "cuda.bench"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unsupported, match=f"timer={name}: the package"):
        timers.TIMERS[name](lambda: pytest.fail("called"), torch.device("cuda"))


class NullContext:
    """A context that does nothing."""

    def __init__(self, *arguments: Any) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_tritons_milliseconds_become_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    testing = ModuleType("triton.testing")
    testing.do_bench = lambda call, return_mode: {"all": [1.0, 3.0]}[return_mode]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setitem(sys.modules, "triton.testing", testing)
    monkeypatch.setattr(torch.cuda, "device", NullContext)
    assert timers.TIMERS["triton"](lambda: None, torch.device("cuda")).samples == [1e-3, 3e-3]


@pytest.mark.parametrize("skipped", [False, True])
def test_nvbench_gets_one_benchmark_and_its_samples_are_read_back(
    monkeypatch: pytest.MonkeyPatch, skipped: bool
) -> None:
    """On a fake with the names and signatures of cuda-bench 0.3."""
    bench, results, called = ModuleType("cuda.bench"), ModuleType("cuda.bench.results"), []
    registered: dict[str, Callable[[Any], None]] = {}
    stream = SimpleNamespace(addressof=lambda: 7)

    def run_all_benchmarks(argv: list[str]) -> None:
        assert argv[1::2][:3] == ["--benchmark", "--devices", "--jsonbin"] and argv[4] == "1"
        benchmark = registered[argv[2]]
        benchmark(
            SimpleNamespace(exec=lambda launch, sync: sync and launch(SimpleNamespace(get_stream=lambda: stream)))
        )

    state = SimpleNamespace(is_skipped=skipped, skip_reason="too short" if skipped else None, samples=[0.5, 0.25])
    bench.register = lambda benchmark: SimpleNamespace(  # type: ignore[attr-defined]
        set_name=lambda name: registered.__setitem__(name, benchmark)
    )
    bench.run_all_benchmarks = run_all_benchmarks  # type: ignore[attr-defined]
    bench.results = results  # type: ignore[attr-defined]
    results.BenchmarkResult = SimpleNamespace(from_json=lambda file: {"cab": [state]})  # type: ignore[attr-defined]
    package = ModuleType("cuda")
    package.bench = bench  # type: ignore[attr-defined]
    for module in (package, bench, results):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda address, device: address)
    monkeypatch.setattr(torch.cuda, "stream", NullContext)

    def timed_by_nvbench() -> timers.Timing:
        return timers.TIMERS["nvbench"](lambda: called.append(1), torch.device("cuda:1"))

    if skipped:
        with pytest.raises(Unsupported, match="too short"):
            timed_by_nvbench()
    else:
        assert timed_by_nvbench().samples == [0.5, 0.25] and called


def test_a_graph_is_captured_after_calls_aside_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", NullContext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: log.append("replay")))
    monkeypatch.setattr(torch.cuda, "graph", NullContext)
    cuda.graph_replay(lambda: log.append("call"), "cuda")()
    assert log == ["call"] * 4 + ["replay"]

    def waits() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(Unsupported, match="cannot be captured: operation not permitted"):
        cuda.graph_replay(waits, "cuda")
