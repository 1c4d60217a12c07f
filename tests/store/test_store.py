"""The store keeps files whole, and its table is tidy, typed and the newest of each environment."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cab.paths import write_whole
from cab.planning.plan import plan
from cab.store.store import Store
from cab.store.table import COLUMNS, environments, make_current, outdated, table


def entry(
    metric: str = "latency", value: float = 1.0, time: str = "2026-01-01T00:00:00Z", **changes: Any
) -> dict[str, Any]:
    case = plan(["task=speed", "mechanism=none", "seq_len=16", f"meters=[{metric}]"]).cases[0]
    number = {"status": "ok", "reason": "", "unit": "s", "higher_is_better": False, "value": value}
    return {
        "schema": 1, "case": case.question(), "case_id": case.id, "meter": metric, "key": "k1", "grade": "native",
        "task_version": 1, "hosted": True, "environment": {"host": "a"}, "environment_id": "e1", "run_id": "r",
        "commit": "c", "time": time, "metrics": {metric: number}, "processes": [], **changes,
    }  # fmt: skip


def write(store: Store, content: dict[str, Any]) -> None:
    """Put an entry into the store as a file, whatever it holds."""
    write_whole(store.path(f"{content['case_id']}-{content['key']}"), json.dumps(content))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path).open_for_writing()


def test_the_table_has_the_columns_in_order_and_their_types(store: Store) -> None:
    write(store, entry())
    rows = table(store)
    assert list(rows.columns) == COLUMNS and len(rows) == 1
    assert (
        rows["value"].dtype == "float64" and rows["processes"].dtype == "Int64" and rows["converged"].dtype == "boolean"
    )
    assert json.loads(rows["settings"][0]) == {"task": {}} and rows["pass"][0] == "forward"


def test_an_empty_store_has_an_empty_table(store: Store) -> None:
    assert list(table(store).columns) == COLUMNS and table(store).empty
    assert list(environments(store).columns) == ["environment_id"]


def test_the_newest_answer_of_each_environment_counts_and_history_keeps_all(store: Store) -> None:
    write(store, entry(value=1.0, time="2026-01-01T00:00:00Z", key="k1"))
    write(store, entry(value=2.0, time="2026-01-02T00:00:00Z", key="k2"))
    write(store, entry(value=3.0, time="2026-01-01T00:00:00Z", key="k3", environment_id="e2"))
    assert sorted(table(store)["value"]) == [2.0, 3.0]
    assert sorted(table(store, history=True)["value"]) == [1.0, 2.0, 3.0]


def test_what_a_meter_gave_by_an_older_method_is_history(store: Store) -> None:
    other = plan(["task=speed", "mechanism=none", "seq_len=32", "meters=[latency]"]).cases[0]
    write(store, entry(value=1.0))  # an entry without a version is of the first
    write(store, entry(value=2.0, version=2, case=other.question(), case_id=other.id))
    write(store, entry("flops", 3.0, hosted=False, key="k2"))
    assert sorted(table(store)["value"]) == [2.0, 3.0]
    assert sorted(table(store, history=True)["value"]) == [1.0, 2.0, 3.0]
    assert outdated(store) == {"latency": 1}


def test_of_a_plan_its_own_files_count_and_not_the_newest(store: Store) -> None:
    write(store, entry(value=1.0, time="2026-01-01T00:00:00Z", key="before"))
    write(store, entry(value=2.0, time="2026-01-02T00:00:00Z", key="edited"))  # and then the edit was undone
    assert list(table(store, files={f"{entry()['case_id']}-before"})["value"]) == [1.0]


def test_what_is_asked_for_last_is_what_a_table_shows(store: Store) -> None:
    write(store, entry(value=1.0, time="2026-01-01T00:00:00Z", key="before"))
    write(store, entry(value=2.0, time="2026-01-02T00:00:00Z", key="edited"))
    for key, value in (("before", 1.0), ("edited", 2.0), ("before", 1.0)):  # all within a second
        make_current(store, {f"{entry()['case_id']}-{key}"})
        assert list(table(store)["value"]) == [value]
    assert sorted(table(store, history=True)["value"]) == [1.0, 2.0]


@pytest.mark.parametrize(
    "odd", [{"count": 2.5}, {"converged": "yes"}, {"value": "fast"}, {"reason": "\udc80"}, {"higher_is_better": "up"}]
)
def test_a_file_with_a_value_of_another_type_is_set_aside_and_costs_no_other(store: Store, odd: dict[str, Any]) -> None:
    write(store, entry(value=1.0))
    broken = entry("flops", value=2.0, key="k2")
    broken["metrics"]["flops"] |= odd
    write(store, broken)
    assert list(table(store)["value"]) == [1.0]
    assert [path.stem for path in store.damaged] == [f"{broken['case_id']}-k2"]
    assert list(table(store)["value"]) == [1.0]


def test_where_the_host_does_not_matter_the_newest_alone_counts(store: Store) -> None:
    write(store, entry("flops", 1.0, "2026-01-01T00:00:00Z", key="k1", hosted=False))
    write(store, entry("flops", 2.0, "2026-01-02T00:00:00Z", key="k2", hosted=False, environment_id="e2"))
    assert list(table(store)["value"]) == [2.0]


def test_the_cached_rows_equal_the_files(store: Store) -> None:
    write(store, entry())
    fresh = table(store)
    assert (store.folder / "rows.parquet").is_file()
    pd.testing.assert_frame_equal(table(store), fresh)
    write(store, entry(value=5.0))
    assert list(table(store)["value"]) == [5.0]
    (store.folder / "rows.parquet").write_bytes(b"damaged")
    assert list(table(store)["value"]) == [5.0]
    store.path(f"{entry()['case_id']}-k1").unlink()
    assert table(store).empty


def test_floors_stand_among_the_rows_under_their_own_names(store: Store) -> None:
    write(store, entry(floors={"majority class": {"latency": 0.5}}))
    rows = table(store).set_index("mechanism")
    assert rows.loc["majority class", "value"] == 0.5 and rows.loc["majority class", "grade"] == "floor"
    assert rows.loc["none", "value"] == 1.0


def test_a_learning_curve_is_rows_with_a_step(store: Store) -> None:
    curve = [{"step": 10, "loss": 1.0, "validation": {"latency": 0.5}}, {"step": 20, "validation": {"latency": 0.6}}]
    write(store, entry(curve=curve, split="test"))
    rows = table(store)
    assert list(rows[rows["step"].notna()]["value"]) == [0.5, 0.6]
    assert list(rows["split"].fillna("")) == ["test", "validation", "validation"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', "\x00\xff"])
def test_a_damaged_file_is_set_aside_and_named(store: Store, content: str) -> None:
    write(store, entry())
    path = store.path(f"{entry()['case_id']}-k1")
    path.write_bytes(content.encode("latin1"))
    assert store.read(path.stem) is None
    assert store.damaged == [store.folder / "damaged" / path.name] and not path.exists()


@pytest.mark.parametrize(
    "odd",
    [
        {"metrics": None},
        {"metrics": {"latency": None}},
        {"metrics": {"latency": {"status": "splendid"}}},
        {"environment": None},
        {"environment_id": None},
        {"processes": None},
        {"case": {}},
        {"floors": [1]},
        {"curve": [None]},
    ],
    ids=str,
)
def test_a_file_of_another_shape_is_set_aside_and_costs_no_other(store: Store, odd: dict[str, Any]) -> None:
    write(store, entry("flops", 2.0, key="k2"))
    write(store, {**entry(), **odd})
    assert list(table(store)["value"]) == [2.0] and len(environments(store)) == 1
    assert [path.stem for path in store.damaged] == [f"{entry()['case_id']}-k1"]


def test_links_to_nothing_and_nests_too_deep_are_no_entries(store: Store) -> None:
    write(store, entry())
    folder = store.path(f"{entry()['case_id']}-k1").parent
    (folder / "lost.json").symlink_to(folder / "nowhere")
    (folder / "deep.json").write_text("[" * 100_000)
    assert list(table(store)["value"]) == [1.0] and [path.stem for path in store.damaged] == ["deep"]


def test_a_file_under_another_name_is_not_taken_for_its_question(store: Store) -> None:
    write(store, entry())
    path = store.path(f"{entry()['case_id']}-k1")
    path.rename(path.with_name("0000-k1.json"))
    assert table(store).empty and len(store.damaged) == 1
