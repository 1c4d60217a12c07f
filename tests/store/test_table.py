"""The table of a store is tidy, typed and the newest of each environment."""

import json
from typing import Any

import pandas as pd
import pytest

from cab.planning.plan import plan
from cab.store.store import Store
from cab.store.table import COLUMNS, environments, make_current, outdated, process_medians, table
from tests.store.example_entries import entry, write


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


def test_a_second_file_that_claims_a_case_is_set_aside_and_listed(store: Store) -> None:
    write(store, entry(value=1.0))
    (path,) = (store.folder / "cases").glob("??/*.json")
    for folder in ("00", "zz"):  # before and after that of the case, in the order of names
        (store.folder / "cases" / folder).mkdir()
        (store.folder / "cases" / folder / path.name).write_text(path.read_text().replace("1.0", "9.0"))
        assert list(table(store)["value"]) == [1.0]
    assert store.damaged == 2 * [store.folder / "damaged" / path.name]


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


def test_the_median_of_each_process_is_kept_of_what_several_measured(store: Store) -> None:
    processes = [{"metrics": {"latency": {"samples": samples}}} for samples in ([1.0, 2.0, 9.0], [4.0])]
    write(store, entry(processes=processes, floors={"majority class": {"latency": 0.5}}))
    write(store, entry("flops", processes=processes[:1], key="k2"))
    (key,) = process_medians(store)
    assert key == (entry()["case_id"], "e1", "latency") and process_medians(store)[key] == [2.0, 4.0]
