"""The utilisation of a machine is printed for the longest length of each curve."""

import pandas as pd
import pytest

from cab.analysis.utilisation import utilisation
from cab.report import print_utilisation
from cab.terminal.printing import console
from tests.analysis.timed_rows import HERE, rows


def test_the_longest_length_of_each_curve_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    peak = {HERE: {"matmul": {"float32": 1e9}, "copy": 1e9, "time": "2026-11-25"}}
    short = rows(latency=1.0, flops_needed=5e8, bytes_needed=4.0)
    long = rows(latency=1.0, flops_needed=25e7, bytes_needed=4.0)
    table = utilisation(pd.concat([short, long.assign(n=16, case_id="d")]), peak)
    print_utilisation(table, console())
    shown = capsys.readouterr().out
    assert len(table) == 2 and "25.0%" in shown and "50.0%" not in shown and "measured 2026-11-25" in shown


def test_lines_of_one_mechanism_are_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")  # the width in which no text is folded
    peak = {HERE: {"matmul": {"float32": 1e9}, "copy": 1e9, "time": "2026-11-25"}}
    one = rows(latency=1.0, flops_needed=5e8, bytes_needed=4.0).assign(batch=2, seed=0, settings="{}")
    padded = one.assign(settings='{"padding":0.5}', case_id="d")
    table = utilisation(pd.concat([one, padded, one.assign(batch=4, case_id="e")]), peak)
    assert list(table["settings"]) == ["{}", '{"padding":0.5}', "{}"]
    print_utilisation(table, console())
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("batch 2", "batch 4", '{"padding":0.5}')) and shown.count("softmax") == 3


def test_nothing_is_printed_where_no_timing_has_a_peak(capsys: pytest.CaptureFixture[str]) -> None:
    print_utilisation(utilisation(rows(latency=1.0), {}), console())
    assert "softmax" not in capsys.readouterr().out
