"""Meters of a trained model: one training for all that is asked, and its checkpoint is kept until they are done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cab.contracts.messages import CompareJob, Job, MeasureJob, TrainJob
from cab.meters.diagnostics import TRAINED
from cab.planning.plan import plan
from cab.runner.fork_client import ForkClient
from cab.runner.supervisor import Options, Supervisor
from cab.store.entry import MetricResult
from cab.store.store import Store
from tests.runner.example_runs import ATTEND, Notes, results, users_file

TRAINING = ["mechanism=softmax", "task=recall_ns", "seq_len=24", "task.pairs=16", "task.halvings=0", "batch=2", "dim=4"]
STEPS = ["training.steps=2", "training.evaluate=1", "training.validate=4", "training.test=8"]
METER = """
import os
from cab import Meter

class Mine(Meter):
    metrics = {"mine": ("", None)}
    trains = True

    def measure(self, workload, case):
        if os.path.exists("fatal"):
            os._exit(9)
        return {"mine": {"samples": [1]}}
"""
Run = Callable[..., dict[str, MetricResult]]


@pytest.fixture
def jobs(server: ForkClient, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Return the jobs that children are asked to do, as they come."""
    asked: list[Job] = []
    run = server.run

    def spied(job: Any, *rest: Any) -> Any:
        asked.append(job)
        return run(job, *rest)

    monkeypatch.setattr(server, "run", spied)
    return asked


@pytest.fixture
def run(server: ForkClient, lawful: None, elsewhere: Path) -> Run:
    """`run(meters)` trains as far as the store needs it, and returns metric -> result."""
    (elsewhere / "mine.py").write_text(METER)

    def carry_out(meters: str, **options: Any) -> dict[str, MetricResult]:
        store = Store(elsewhere / "results").open_for_writing()
        measurements = plan([*TRAINING, *STEPS, f"meters=[{meters}]"]).measurements
        supervisor = Supervisor(store, server, Options(data=elsewhere, **options), Notes())
        supervisor.carry_out(supervisor.pending(measurements))
        entries = [store.read(each.file) for each in measurements]
        return {name: metric for entry in entries if entry for name, metric in entry.metrics.items()}

    return carry_out


def checkpoints() -> list[Path]:
    return list(Path("results/checkpoints").glob("*/*"))


def test_one_training_serves_all_and_its_weights_are_those_that_were_scored(run: Run, jobs: list[Job]) -> None:
    metrics = run("quality,extrapolation")
    assert {metric.status for metric in metrics.values()} == {"ok"}
    assert metrics["accuracy_same"].value == metrics["accuracy"].value
    assert [type(job) for job in jobs] == [CompareJob, TrainJob, MeasureJob] and not checkpoints()


def test_a_meter_alone_trains_too(run: Run, jobs: list[Job]) -> None:
    assert run("./mine.py:Mine")["mine"].status == "ok"
    assert [type(job) for job in jobs] == [CompareJob, TrainJob, MeasureJob] and not checkpoints()


def test_a_meter_that_dies_costs_its_own_metric_and_a_retry_goes_on_from_the_checkpoint(
    run: Run, jobs: list[Job]
) -> None:
    Path("fatal").touch()
    metrics = run("quality,extrapolation,./mine.py:Mine")
    assert metrics["accuracy"].status == metrics["accuracy_double"].status == "ok"
    assert metrics["mine"].status == "error" and "goes on from its last checkpoint" in metrics["mine"].reason
    assert len(checkpoints()) == 1
    Path("fatal").unlink()
    del jobs[:]
    assert run("quality,extrapolation,./mine.py:Mine", retry=frozenset({"error"}))["mine"].status == "ok"
    assert [type(job) for job in jobs] == [CompareJob, TrainJob, MeasureJob] and not checkpoints()


def test_what_is_killed_between_training_and_meters_does_not_train_again(
    run: Run, server: ForkClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = server.run

    def killed(job: Any, *rest: Any) -> Any:
        if isinstance(job, MeasureJob):
            raise KeyboardInterrupt
        return usual(job, *rest)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(server, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            run("quality,extrapolation")
    (checkpoint,) = checkpoints()
    trained = checkpoint.stat().st_mtime_ns
    written: list[int] = []

    def watched(job: Any, *rest: Any) -> Any:
        if isinstance(job, MeasureJob):
            written.append(checkpoint.stat().st_mtime_ns)
        return usual(job, *rest)

    monkeypatch.setattr(server, "run", watched)
    metrics = run("quality,extrapolation")
    assert written == [trained], "no step and no validation was made again"
    assert metrics["accuracy_same"].value == metrics["accuracy"].value and not checkpoints()


def test_the_map_of_a_trained_model_is_that_of_its_first_layer(run: Run) -> None:
    metrics = run("diagnostics")
    assert {metric.status for metric in metrics.values()} == {"ok"}
    assert {metric.stop_reason for metric in metrics.values()} == {TRAINED}
    assert 10 / 24 < float(metrics["top_10_mass"].value or 0) <= 1


def test_agreement_and_robustness_are_of_the_trained_model(run: Run, jobs: list[Job]) -> None:
    metrics = run("quality,agreement,robustness")
    assert [type(job) for job in jobs] == [CompareJob, TrainJob, MeasureJob]
    assert metrics["softmax_rmse"].value < 1e-12 and metrics["recall_at_budget"].status == "unsupported"
    assert metrics["clean_error"].value == 1 - metrics["accuracy"].value
    errors = [float(metrics[f"corrupted_error_{severity}"].value) for severity in range(1, 6)]
    assert metrics["corrupted_error"].value == pytest.approx(sum(errors) / 5)


def test_what_is_wrong_in_the_tasks_slot_alone_is_not_trained(
    server: ForkClient, lawful: None, elsewhere: Path
) -> None:
    body = ATTEND + (
        "    scores = q @ k.transpose(2, 3) * (self.slot.dim ** -0.5 if self.slot.heads < 4 else 1.0)\n"
        "    if key_mask is not None:\n"
        "        scores = scores.masked_fill(~key_mask[:, None, None, :], -1e9)\n"
        "    return scores.softmax(-1) @ v\n\n"
        "def reference(self, q, k, v):\n"
        "    return (q @ k.transpose(2, 3) * self.slot.dim ** -0.5).softmax(-1) @ v\n"
    )
    name = users_file(elsewhere, body)
    asked = ["task=recall_ns", f"mechanism={name}", "meters=[quality]", "training.steps=1", "dim=4", "heads=2,4"]
    store = Store(elsewhere / "results").open_for_writing()
    measurements = plan(asked).measurements
    Supervisor(store, server, Options(data=elsewhere), Notes()).carry_out(measurements)
    found = {each.case.heads: results(each, elsewhere)["accuracy"] for each in measurements}
    assert found[2].status == "ok" and found[4].status == "wrong" and "off from its definition" in found[4].reason
