"""An entry survives its JSON, and what is no entry is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cab.errors import UsageError
from cab.store.entry import Entry, MetricResult, ProcessRecord
from cab.store.store import Store
from tests.store.example_entries import entry, write


def test_an_entry_survives_its_json() -> None:
    samples = {"latency": {"samples": [1.0, 2.0], "warm_up": 3}}
    one = replace(
        Entry.from_json(entry()),
        processes=(ProcessRecord(samples, {"time": 1.0}), ProcessRecord({"latency": {"status": "oom", "reason": ""}})),
        metrics={
            "latency": MetricResult("s", False, "oom", "too long"),
            "spread": MetricResult("s", None, "ok", value=1),
        },
        memory_limit=2**30,
        again=True,
        asked="2026-01-02T00:00:00Z",
    )
    assert Entry.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_trainings_entry_survives_its_json() -> None:
    trained = replace(
        Entry.from_json(entry()),
        curve=[{"step": 1, "validation": {"accuracy": 0.5}}],  # type: ignore[arg-type]  # as JSON has it
        best_step=1,
        stopped="patience",
        floors={"chance": {"accuracy": 0.5}},
        data_source="generated",
        data={"name": "generated", "comparable": False},
        split="test",
    )
    assert Entry.from_json(json.loads(json.dumps(trained.to_json()))) == trained


def test_a_result_without_a_value_is_written_without_what_describes_one() -> None:
    result = MetricResult("s", False, "timeout", "took too long")
    assert set(result.to_json()) == {"unit", "higher_is_better", "status", "reason"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": None}, "metrics is no dict"),
        ({"time": 3}, "time is no str"),
        ({"case": {}}, "'pass'"),
        ({"metrics": {"latency": {"splendid": 1}}}, "splendid"),
        ({"metrics": {"latency": {"unit": "s", "higher_is_better": True, "status": "splendid"}}}, "status 'splendid'"),
        ({"metrics": {"latency": {"unit": "s", "higher_is_better": True, "status": []}}}, "latency has the status"),
        ({"processes": [{"samples": []}]}, "samples"),
    ],
)
def test_what_is_no_entry_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"not an entry: .*{message}"):
        Entry.from_json({**entry(), **changes})


@pytest.mark.parametrize("schema", [0, 2])
def test_an_entry_of_another_schema_is_refused_by_name_and_not_taken_for_a_damaged_one(
    tmp_path: Path, schema: int
) -> None:
    store, content = Store(tmp_path).open_for_writing(), {**entry(), "schema": schema}
    write(store, content)
    with pytest.raises(UsageError, match=rf"k1\.json: an entry of schema {schema}, .* reads schema 1"):
        list(store.entries())
    assert store.damaged == [] and store.path(f"{content['case_id']}-k1").exists()
