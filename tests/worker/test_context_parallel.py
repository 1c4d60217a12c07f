"""Several processes compute one attention together: the rows of one process, and a time of all."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cab.contracts.messages import Failure, MeasureAnswer, MeasureJob, Samples
from cab.errors import Wrong
from cab.planning.plan import plan
from cab.runner.fork_client import ForkClient
from cab.training import OneProcess
from cab.worker import context_parallel

ASKED = ["task=speed", "mechanism=softmax", "backend=sdpa", "seq_len=64", "batch=1", "heads=2", "dim=8", "threads=2"]


def measured(folder: Path, *words: str) -> Samples | Failure:
    """Return what one process's share of the meter latency gave of a case in two processes."""
    (case,) = plan([*ASKED, "meters=[latency]", "context_parallel=2", *words]).cases
    with ForkClient() as client:
        ending = client.run(MeasureJob(case, str(folder), 2, ["latency"]), 550, None)
    assert isinstance(ending.answer, MeasureAnswer), ending
    return ending.answer.meters["latency"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_processes_compute_the_rows_of_one_and_are_timed(tmp_path: Path) -> None:
    """That the rows are equal is checked in the child itself, as it is in every run."""
    pytest.importorskip("lightning_fabric")
    answer = measured(tmp_path)
    assert isinstance(answer, Samples), answer
    assert all(seconds > 0 for seconds in answer.metrics["latency"]["samples"])


class Process(OneProcess):
    """One of two processes, alone: it hears of the other only what it says itself."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


class Counting:
    """Stands for a workload of eight rows: the whole once, and then the rows of one process, `off` by so much."""

    device, leaves = torch.device("cpu"), [torch.zeros(1)]

    def __init__(self, rank: int, off: float = 0.0) -> None:
        self.whole, self.calls = torch.arange(8.0).view(1, 1, 8, 1), 0
        self.rows = self.whole[:, :, 4 * rank : 4 * rank + 4] + off

    def run(self) -> Tensor:
        self.calls += 1
        return self.whole if self.calls == 1 else self.rows


@pytest.fixture
def undivided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch divide nothing, which takes it half a minute."""
    monkeypatch.setattr(context_parallel, "context_parallel", lambda mesh, **buffers: nullcontext())
    monkeypatch.setattr(context_parallel, "init_device_mesh", lambda device, shape: None)


def test_rows_that_differ_from_those_of_one_process_are_wrong(undivided: None) -> None:
    with pytest.raises(Wrong, match=r"context_parallel=2: its rows differ by 0.01 from those of one process"):
        with context_parallel.divided(Counting(0, off=0.01), Process(0), context_parallel.Signals(1)):  # type: ignore[arg-type]
            pass


def test_the_other_processes_compute_as_often_as_the_first(undivided: None) -> None:
    signals, first, second = context_parallel.Signals(1), Counting(0), Counting(1)
    with context_parallel.divided(first, Process(0), signals) as shared:  # type: ignore[arg-type]
        assert shared is not None
        for _ in range(3):
            shared.run()
    with context_parallel.divided(second, Process(1), signals) as nothing:  # type: ignore[arg-type]
        assert nothing is None
    assert first.calls == second.calls == 2 + 3
