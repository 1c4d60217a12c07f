"""What a reader of pandas gets: timestamps, categories in their own order, a column for each key of the JSON."""

import pandas as pd

from cab.planning.points import OTHERS_KEY
from cab.store.store import Store
from cab.store.table import table
from cab.store.typed import typed, unpacked
from tests.analysis.example_rows import case_rows, table_of
from tests.store.example_entries import entry, write


def test_times_are_timestamps_and_few_values_are_categories(store: Store) -> None:
    write(store, entry())
    rows = typed(table(store))
    assert rows["time"].iloc[0] == pd.Timestamp("2026-01-01", tz="UTC")
    assert all(rows[name].dtype == "category" for name in ("mechanism", "pattern", "status", "metric", "device"))
    assert rows["mechanism"].iloc[0] == "none" and pd.api.types.is_string_dtype(rows["case_id"])


def test_patterns_and_statuses_sort_in_their_own_order() -> None:
    rows = typed(table_of(*(case_rows({"latency": 1.0}, pattern=pattern) for pattern in ("NC", "CS", "CC", "NS"))))
    assert list(rows.sort_values("pattern")["pattern"]) == ["NS", "CS", "NC", "CC"]
    rows = typed(table_of(case_rows({"latency": ("oom", ""), "flops": 1.0, "parameters": ("wrong", "")})))
    assert list(rows.sort_values("status")["status"]) == ["ok", "oom", "wrong"]
    assert list(rows["pattern"].cat.categories) == ["NS"]  # no empty groups


def test_an_empty_store_has_the_same_columns(store: Store) -> None:
    empty = unpacked(typed(table(store)))
    assert empty.empty and empty["time"].dtype.kind == "M" and "params" not in empty


def test_each_hyper_parameter_and_setting_has_a_column_of_its_type() -> None:
    rows = unpacked(
        table_of(
            case_rows({"latency": 1.0}, params={"window": 8, "inner": {"name": "agent"}}, settings={"threads": 1}),
            case_rows({"latency": 1.0}, params={"sinks": True}, settings={"training": {"lr": 0.1}, "task": {"k": [1]}}),
        )
    )
    assert "params" not in rows and "settings" not in rows
    assert rows["mechanism.window"].dtype == "Int64" and list(rows["mechanism.window"].isna()) == [False, True]
    assert rows["mechanism.sinks"].dtype == "boolean" and rows["training.lr"].iloc[1] == 0.1
    assert rows["mechanism.inner.name"].iloc[0] == "agent" and rows["task.k"].iloc[1] == [1]
    assert list(rows["threads"].dropna()) == [1]


def test_what_stands_in_the_other_slots_has_the_key_of_the_command_line() -> None:
    rows = unpacked(table_of(case_rows({"latency": 1.0}, settings={"others": "none"})))
    assert list(rows[OTHERS_KEY]) == ["none"] and "others" not in rows
