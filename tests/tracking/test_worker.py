"""A worker in this process: every case of the grid is right by its own reference, and counts the same twice."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.cuda._utils import _get_device_index

from cab import Unsupported
from cab.errors import UsageError
from cab.tracking import worker as worker_module
from cab.tracking.cases import TrackedCase, device_of, reference_kernel, tracked_cases, with_instructions
from cab.tracking.worker import Cuda, Worker, answer


@pytest.mark.parametrize("case", tracked_cases([]), ids=lambda case: case.name)
def test_a_case_of_the_grid_is_right_and_counts_the_same_twice(case: TrackedCase) -> None:
    worker = Worker(case.question)
    assert worker.check() == ""
    assert worker.counts() == worker.counts()


@pytest.mark.parametrize("name", ["none", "mean", "synthesizer", "s4d"])
@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_mechanisms_that_read_less_than_all_are_checked_too(name: str, pattern: str) -> None:
    (case,) = tracked_cases([f"mechanism={name}", f"pattern={pattern}", "seq_len=64", "source_len=48", "batch=1"])
    try:
        worker = Worker(case.question)
    except Unsupported:
        pytest.skip(f"{name} has no {pattern}")
    assert worker.check() == ""


# Decoding


@pytest.mark.parametrize("name", ["softmax", "linear", "mean", "gated_deltanet"])
@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_a_decoding_is_right_by_the_reference_and_counts_the_same_twice(name: str, pattern: str) -> None:
    overrides = [f"mechanism={name}", f"pattern={pattern}", "seq_len=96", "source_len=48", "batch=1", "pass=decode"]
    (case,) = tracked_cases(overrides)
    try:
        worker = Worker(case.question)
    except Unsupported:
        pytest.skip(f"{name} has no {pattern}")
    assert worker.check() == "" and worker.counts() == worker.counts()
    assert " decode" in case.name and worker.sample(2) > 0


def test_a_wrong_step_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = tracked_cases(["mechanism=linear", "pattern=CS", "seq_len=96", "batch=1", "pass=decode"])
    worker = Worker(case.question)
    right = type(worker.mechanism).step

    def step(self: Any, state: Any, *arguments: Any, **inputs: Any) -> Any:
        out, state = right(self, state, *arguments, **inputs)
        return 1.01 * out, state

    monkeypatch.setattr(type(worker.mechanism), "step", step)
    assert "off from its reference" in worker.check()


def test_a_token_counts_once_where_a_pass_decodes_many(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = tracked_cases(["mechanism=softmax", "pattern=CS", "seq_len=64", "batch=1", "pass=decode"])
    worker, now = Worker(case.question), [0]

    def decode() -> None:
        now[0] += 640_000  # ns

    worker.calls, worker.run = 64, decode
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(perf_counter_ns=lambda: now[0]))
    assert worker.calibrate(0.004) == {"iterations": 6, "seconds": pytest.approx(640e-6)}
    assert worker.sample(20) == pytest.approx(10e-6)


def test_counts_of_a_step_that_works_in_place_are_of_one_token_too(monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = tracked_cases(["mechanism=linear", "pattern=CS", "seq_len=64", "batch=1", "pass=decode"])
    worker = Worker(case.question)
    one, right = worker.counts(), type(worker.mechanism).step

    def step(self: Any, state: Any, *arguments: Any, **inputs: Any) -> Any:
        out, new = right(self, state, *arguments, **inputs)
        return out, state.copy_(new)

    monkeypatch.setattr(type(worker.mechanism), "step", step)
    in_place = Worker(case.question)
    assert worker.calls == 1 and in_place.calls == 64
    launches = {"kernel launches": 128.0, "instructions": 6400.0}
    monkeypatch.setattr(in_place.device, "kernel_launches", lambda run: launches)
    many = in_place.counts()
    assert many["FLOPs"] == one["FLOPs"] and many["parameters"] == one["parameters"]
    assert many["operations"] == one["operations"] + 1 + 1 / 64, "a copy for each token, and one of the state a pass"
    assert (many["kernel launches"], many["instructions"]) == (2.0, 100.0)
    assert one["bytes moved"] < many["bytes moved"] < 2 * one["bytes moved"]


def test_what_does_not_stream_has_no_data() -> None:
    (case,) = tracked_cases(["mechanism=linear", "pattern=NS", "seq_len=64", "pass=decode"])
    with pytest.raises(Unsupported, match="pass=decode needs a causal pattern"):
        Worker(case.question)


def test_a_module_whose_import_failed_is_imported_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(worker_module, "__file__", str(tmp_path / "tracking" / "worker.py"))
    (tmp_path / "tracking").mkdir()
    file = tmp_path / "half_executed.py"
    file.write_text("first = 1\nraise OSError('no space left')\n")
    for _ in range(2):
        with pytest.raises(OSError, match="no space left"):
            worker_module.from_this_checkout("half_executed")
    assert "cab_tracking_half_executed" not in sys.modules
    file.write_text("first = 1\nlast = 2\nrepaired = True\n")
    try:
        assert worker_module.from_this_checkout("half_executed").last == 2
    finally:
        sys.modules.pop("cab_tracking_half_executed", None)


# A GPU, whose tensors are on the CPU here


class FakeGpu:
    """Stands for CUDA: logs waits and passes, has clock rates and an allocator of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock_rate: Callable[[], float] = lambda: 1500.0) -> None:
        self.log: list[str] = []

        class OnCpu(Cuda):
            def __init__(self, name: str) -> None:
                super().__init__(name)
                self.place = "cpu"

        memory = {"memory_allocated": 1000, "max_memory_allocated": 5000}
        for name, value in memory.items():
            monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: self.log.append("reset"))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "set_device", self.set_device)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: self.log.append("wait"))
        monkeypatch.setattr(torch.cuda, "clock_rate", lambda device: clock_rate())
        monkeypatch.setattr(worker_module, "Cuda", OnCpu)

    def set_device(self, device: str) -> None:
        # PyTorch's own check: a device without an index is refused
        self.log.append(f"use cuda:{_get_device_index(device)}")


ON_GPU = ["mechanism=linear", "pattern=CS", "seq_len=64", "batch=1", "device=cuda:1"]


def test_a_sample_waits_for_the_gpu_before_and_after_and_has_its_clock_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    worker, _ = answer(None, {"do": "set up", "case": tracked_cases(ON_GPU)[0].question})
    assert worker is not None and gpu.log == ["use cuda:1"]
    worker.run = lambda: gpu.log.append("pass")
    _, sample = answer(worker, {"do": "sample", "iterations": 3})
    assert gpu.log[1:] == ["wait", "pass", "pass", "pass", "wait"]
    assert sample["clock"] == 1500.0 and sample["seconds"] > 0


def test_a_gpu_without_an_index_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    worker = Worker(tracked_cases([*ON_GPU[:-1], "device=cuda"])[0].question)
    assert gpu.log == ["use cuda:0"] and worker.check() == ""
    assert Cuda("cuda").place == "cuda:0" and Cuda("cuda:2").place == "cuda:2"


def test_a_clock_rate_that_cannot_be_read_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> float:
        raise ModuleNotFoundError("pynvml does not seem to be installed")

    FakeGpu(monkeypatch, missing)
    assert worker_module.Cuda("cuda").clock_rate() == 0.0


def test_on_a_gpu_kernel_launches_are_counted_and_the_peak_is_its_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch)
    calls = ["aten::mm", "cudaLaunchKernel", "cudaMemcpyAsync", "cuLaunchKernelEx", "cudaLaunchKernelExC"]
    calls += ["cudaGraphLaunch", "cudaDeviceSynchronize", "cudaLaunchHostFunc"]
    monkeypatch.setattr(Cuda, "_runtime_calls", lambda self, run: calls)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CUDA})
    worker = Worker(tracked_cases(ON_GPU)[0].question)
    assert worker.check() == ""
    counts = worker.counts()
    assert counts["kernel launches"] == 4 and counts["peak allocated bytes"] == 4000
    on_cpu = Worker(tracked_cases(ON_GPU[:-1])[0].question).counts()
    assert "kernel launches" not in on_cpu
    assert {key: counts[key] for key in ("FLOPs", "operations", "bytes moved")} == {
        key: on_cpu[key] for key in ("FLOPs", "operations", "bytes moved")
    }


def test_where_the_profiler_does_not_see_cuda_launches_are_not_counted_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch)
    monkeypatch.setattr(torch.profiler, "supported_activities", lambda: {torch.profiler.ProfilerActivity.CPU})
    assert worker_module.Cuda("cuda").kernel_launches(lambda: None) == {}


def test_what_is_read_from_the_profiler_are_names_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch)
    passes: list[int] = []

    def run() -> None:
        passes.append(1)
        torch.ones(4).exp()

    names = Cuda("cuda")._runtime_calls(run)
    assert names.count("aten::exp") == 1 and len(passes) == 2


def test_without_a_gpu_the_reason_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="device=cuda:1: PyTorch .* sees no GPU here"):
        Worker(tracked_cases(ON_GPU)[0].question)


def test_the_reference_kernel_runs_on_the_device_of_the_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    worker = Worker(reference_kernel(device_of(tracked_cases(ON_GPU))).question)
    assert gpu.log == ["use cuda:1"] and worker.check() == ""


def test_a_comparison_is_of_one_device_and_instructions_are_of_the_cpu() -> None:
    with pytest.raises(UsageError, match="device=cpu,cuda: one comparison is of one device"):
        tracked_cases(["mechanism=linear", "device=cpu,cuda"])
    with pytest.raises(UsageError, match="not for device=cuda:1"):
        with_instructions(tracked_cases(ON_GPU)[0])
    (case,) = tracked_cases(ON_GPU)
    assert case.name.endswith(" cuda:1") and "device" not in tracked_cases(ON_GPU[:-1])[0].question
