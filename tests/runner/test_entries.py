"""An entry grows by processes, and its values are made of all of them; what is no value is an error."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cab.contracts.messages import Samples, TrainAnswer
from cab.contracts.meter import Reading
from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.plugins import registry
from cab.runner.entries import is_finished, left, new_entry, with_outcome, worst_status
from cab.runner.outcomes import Outcome
from cab.store.store import Store
from cab.store.table import table
from tests.runner.example_runs import FAST, ratio_samples


def only(*overrides: str) -> Measurement:
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", *overrides]).measurements
    return measurement


def ok(measurement: Measurement, value: float = 1.0) -> Outcome:
    return Outcome("ok", answer=Samples({name: {"samples": [value] * 20} for name in measurement.metrics}))


@pytest.mark.parametrize(
    ("odd", "field"),
    [
        (Reading(1.0, 0.0, float("inf")), "ci_high"),
        (Reading(1.0, count=2.5), "count"),  # type: ignore[arg-type]
        (Reading("fast"), "value"),  # type: ignore[arg-type]
        (Reading(True), "value"),
        (Reading(1.0, converged="yes"), "converged"),  # type: ignore[arg-type]
    ],
)
def test_a_value_that_is_no_value_is_an_error_and_the_run_goes_on(
    odd: Reading, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measurement = only("meters=[parameters]")
    monkeypatch.setattr(registry.load("meter", "parameters"), "reduce", lambda self, name, processes: odd)
    entry = with_outcome(new_entry(measurement, "r", "c"), measurement, ok(measurement), {})
    Store(tmp_path).write(entry)
    assert all(metric.status == "error" and field in metric.reason for metric in entry.metrics.values())


def test_values_are_made_of_the_samples_of_all_processes() -> None:
    measurement = only("meters=[latency]")
    entry = new_entry(measurement, "r", "c")
    for count, value in enumerate((1.0, 3.0), 1):
        assert not is_finished(entry, measurement)
        entry = with_outcome(entry, measurement, ok(measurement, value), {"time": count})
        assert [process.details["time"] for process in entry.processes] == list(range(1, count + 1))
    assert is_finished(entry, measurement, processes=2) and not is_finished(entry, measurement)
    latency = entry.metrics["latency"]
    assert latency.processes == 2 and latency.value is not None and 1 < latency.value < 3


@pytest.mark.parametrize(("spread", "processes"), [(0.001, 5), (0.08, 10)])
def test_a_wide_ratio_takes_more_processes_and_that_is_decided_once(spread: float, processes: int) -> None:
    measurement = only("meters=[latency_ratio]")
    entry = new_entry(measurement, "r", "c")
    for number in range(processes):
        assert not is_finished(entry, measurement)
        assert left(entry, measurement) == (5 if number < 5 else 10) - number
        if number > 5:
            assert entry.metrics["latency_ratio"].converged, "narrow from the sixth process, and it does not stop there"
        outcome = Outcome("ok", answer=Samples({"latency_ratio": ratio_samples(number, spread)}))
        entry = with_outcome(entry, measurement, outcome, {})
    assert is_finished(entry, measurement) and entry.metrics["latency_ratio"].processes == processes
    assert left(entry, measurement) == 0


def test_an_entry_without_a_metric_that_is_asked_for_takes_one_process_at_least() -> None:
    measurement = only("meters=[latency]")
    entry = new_entry(measurement, "r", "c")
    for _ in range(5):
        entry = with_outcome(entry, measurement, ok(measurement), {})
    assert left(None, measurement) == 5 and left(entry, measurement) == 0
    assert left(replace(entry, metrics={}), measurement) == 1


def test_a_failure_is_final_and_keeps_the_samples_before_it() -> None:
    measurement = only("meters=[latency]")
    entry = with_outcome(new_entry(measurement, "r", "c"), measurement, ok(measurement), {})
    entry = with_outcome(entry, measurement, Outcome("timeout", "took too long"), {})
    assert is_finished(entry, measurement) and len(entry.processes) == 1
    assert worst_status(entry) == ("timeout", "took too long")
    assert all(metric.value is None for metric in entry.metrics.values())


def test_a_metric_that_a_meter_does_not_return_is_an_error() -> None:
    measurement = only("meters=[parameters]")
    entry = with_outcome(new_entry(measurement, "r", "c"), measurement, Outcome("ok", answer=Samples({})), {})
    reasons = {name: (metric.status, metric.reason) for name, metric in entry.metrics.items()}
    assert reasons == {name: ("error", f"the meter parameters returned no {name}") for name in measurement.metrics}


def test_a_training_leaves_its_curve_its_floors_and_its_data() -> None:
    measurement = plan(["task=recall_ns", "mechanism=none", "meters=[quality]", "scale=quick"]).measurements[0]
    answer: dict[str, Any] = {
        "metrics": {name: {"samples": [1.0, 0.0]} for name in measurement.metrics},
        "curve": [{"step": 1, "validation": {"accuracy": 0.5}}],
        "best_step": 1,
        "stopped": "patience",
        "notes": [],
        "floors": {"chance": {"accuracy": 0.5}},
        "source": {"name": "generated", "comparable": False, "counts": {}, "note": ""},
    }
    entry = new_entry(measurement, "r", "c")
    trained = with_outcome(entry, measurement, Outcome("ok", answer=TrainAnswer(**answer)), {})
    assert (trained.best_step, trained.stopped, trained.data_source, trained.split) == (
        1,
        "patience",
        "generated",
        "test",
    )
    assert trained.floors == answer["floors"] and list(trained.curve) == answer["curve"]
    assert all(metric.stop_reason == "patience" for metric in trained.metrics.values())
    wrong = TrainAnswer(**{**answer, "floors": {"chance": {"accuracy": "half"}}})
    with pytest.raises(TypeError, match="floors: accuracy is 'half'"):
        with_outcome(entry, measurement, Outcome("ok", answer=wrong), {})


def test_an_entry_says_where_its_task_departs_from_what_was_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (measurement,) = plan(["mechanism=softmax", "task=cab_pcc", "meters=[quality]"], tmp_path).measurements
    entry = with_outcome(new_entry(measurement, "run", "commit"), measurement, Outcome("oom", "too large"), {})
    store.write(entry)
    assert set(table(store)["protocol"]) == {"learned queries"}
    assert json.loads(store.path(entry.file).read_text())["protocol"] == "learned queries"
