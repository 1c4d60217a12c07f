"""What is no timing runs side by side; timings run alone, afterwards. The fork servers are stubs."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cab.contracts.messages import (
    ChildExit,
    CompareAnswer,
    CompareJob,
    Failure,
    Job,
    LawsAnswer,
    LawsJob,
    MeasureJob,
    TrainJob,
)
from cab.planning.plan import plan
from cab.runner import supervisor, worker_pool
from cab.runner.fork_client import Ending
from cab.runner.supervisor import Options, Supervisor
from cab.store.store import Store
from cab.terminal.progress import Silent
from tests.runner.example_runs import FAST


class Listening(Silent):
    """Remembers which workers said what they do."""

    def __init__(self) -> None:
        self.workers: set[int | None] = set()

    def doing(self, what: str, worker: int | None = None) -> None:
        self.workers.add(worker)


class StubServer:
    """Lets laws and comparisons hold and all else fail, and knows what runs at the same time in all servers."""

    lock = threading.Lock()
    running: list[str] = []
    together: list[list[str]] = []  # what ran when each job began
    jobs: list[Job] = []
    limits: list[int | None] = []
    pair: threading.Barrier | None = None  # trainings wait for a second one

    def __enter__(self) -> "StubServer":
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, job: Job, deadline: float, memory: int | None, waiting: Callable[[str], None]) -> Ending:
        kind = ",".join(job.meters) if isinstance(job, MeasureJob) else type(job).__name__
        with self.lock:
            self.running.append(kind)
            self.together.append(list(self.running))
            self.jobs.append(job)
            if isinstance(job, TrainJob):
                self.limits.append(memory)
        waiting("")
        if isinstance(job, TrainJob) and self.pair is not None:
            self.pair.wait()
        with self.lock:
            self.running.remove(kind)
        answer: Any = Failure("unsupported", "a stub")
        if isinstance(job, LawsJob | CompareJob):
            answer = LawsAnswer([], {}, 1) if isinstance(job, LawsJob) else CompareAnswer()
        return Ending(answer, ChildExit("ended", 0, None, 0, 0.0), "")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> type[StubServer]:
    class Fresh(StubServer):
        lock, running, together, jobs, limits, pair = threading.Lock(), [], [], [], [], None  # type: ignore[var-annotated]

    monkeypatch.setattr(worker_pool, "ForkClient", Fresh)
    monkeypatch.setattr(supervisor.environment, "usable_cores", lambda: 8)
    return Fresh


def carry_out(stub: type[StubServer], overrides: list[str], workers: int, folder: Path) -> Listening:
    listening, store = Listening(), Store(folder / "results").open_for_writing()
    options = Options(data=folder, workers=workers)
    Supervisor(store, stub(), options, listening).carry_out(plan(overrides).measurements)  # type: ignore[arg-type]
    return listening


TRAININGS = ["task=parity", "mechanism=none", "meters=[quality]", "seed=0,1,2,3", "training.steps=1", "threads=null"]


def test_trainings_run_side_by_side_each_with_its_share(stub: type[StubServer], lawful: None, elsewhere: Path) -> None:
    stub.pair = threading.Barrier(2, timeout=10)
    listening = carry_out(stub, TRAININGS, 2, elsewhere)
    trainings = [job for job in stub.jobs if isinstance(job, TrainJob)]
    assert len(trainings) == 4 and {job.threads for job in trainings} == {4}
    assert len(set(stub.limits)) == 1, "a share of the memory does not depend on what the others take"
    assert listening.workers == {0, 1}


def test_one_worker_is_one_training_at_a_time_with_all_cores(
    stub: type[StubServer], lawful: None, elsewhere: Path
) -> None:
    carry_out(stub, TRAININGS, 1, elsewhere)
    assert {job.threads for job in stub.jobs if isinstance(job, TrainJob)} == {8}
    assert max(map(len, stub.together)) == 1


def test_a_timing_has_the_machine_alone(stub: type[StubServer], lawful: None, elsewhere: Path) -> None:
    grid = [*FAST, "mechanism=none,mean", "seq_len=16,32,64", "meters=[latency,flops]"]
    carry_out(stub, grid, 3, elsewhere)
    kinds = [each[-1] for each in stub.together]
    assert sorted(set(kinds)) == ["flops", "latency"]
    assert kinds.index("latency") == kinds.count("flops"), "timings come when everything else is over"
    assert all(each == ["latency"] for each in stub.together if "latency" in each)


def test_laws_are_over_before_anything_is_trained(
    stub: type[StubServer], monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    carry_out(stub, TRAININGS, 2, elsewhere)
    kinds = [type(job).__name__ for job in stub.jobs]
    assert kinds[:2] == ["LawsJob", "CompareJob"] and kinds.count("TrainJob") == 4
    assert kinds.count("LawsJob") == 1, "one verdict, asked for once, although two workers need it"
