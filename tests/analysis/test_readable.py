"""Rows that somebody else wrote neither crash a report nor steer a terminal."""

import io
from math import inf, nan

import pytest
from rich.console import Console

from cab.analysis.readable import INFINITE, NO_NUMBER, readable
from cab.analysis.results import Results
from cab.report import print_report
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns


@pytest.mark.parametrize(("value", "reason"), [(inf, INFINITE), (-inf, INFINITE), (nan, NO_NUMBER), (None, NO_NUMBER)])
def test_a_value_that_is_no_finite_number_is_an_error_that_every_command_survives(value: float, reason: str) -> None:
    cases = [
        case_rows({"latency": (seconds, 0.9, 1.1)}, mechanism=name, n=n, m=n)
        for name, seconds in (("linear", value), ("softmax", 1.0))
        for n in (256, 512)
    ]
    rows = readable(table_of(*cases))
    linear = rows[rows["mechanism"] == "linear"]
    assert set(linear["status"]) == {"error"} and set(linear["reason"]) == {reason} and linear["value"].isna().all()
    assert set(rows[rows["mechanism"] == "softmax"]["status"]) == {"ok"}
    out = io.StringIO()
    print_report(Results(rows, environments()), Console(file=out, width=100))
    assert f"error: {reason}" in out.getvalue() and "nan" not in out.getvalue()


def test_an_interval_without_an_end_tells_nothing_apart() -> None:
    (row,) = readable(table_of(case_rows({"latency": (1.0, 0.5, inf)}))).to_dict("records")
    assert (row["status"], row["value"], row["converged"]) == ("ok", 1.0, False)
    assert row["ci_low"] != row["ci_low"] and "no finite end" in row["stop_reason"]


def test_a_step_of_a_training_may_be_infinite_and_sound_rows_are_left_as_they_are() -> None:
    rows = table_of(training_rows("softmax", 0.5), with_columns(training_rows("softmax", inf), step=10))
    assert readable(rows) is rows


def test_characters_that_steer_a_terminal_are_written_as_escapes_and_lines_of_a_reason_stay() -> None:
    failed = case_rows({"latency": ("error", "one\ntwo\x1b[2J")}, mechanism="a\x1b[31m\n\u202eb\x9bé😀 <i>")
    (row,) = readable(table_of(failed)).to_dict("records")
    assert row["mechanism"] == "a\\x1b[31m\\n\\u202eb\\x9bé😀 <i>" and row["reason"] == "one\ntwo\\x1b[2J"
