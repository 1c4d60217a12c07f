"""A metric by two keys: every value has its cell, and two values never share one."""

import io

import pandas as pd
import pytest
from rich.console import Console

from cab.analysis.ranking import leaderboard
from cab.errors import UsageError
from cab.report.pivot import pivot, print_pivot, written_pivot
from tests.analysis.example_rows import case_rows, environments, table_of


def boards(*cases):  # type: ignore[no-untyped-def]
    return leaderboard(table_of(*cases), environments())


CASES = [
    case_rows({"latency": value, "flops": 2.0 * n}, mechanism=name, n=n, m=n)
    for name, n, value in (("softmax", 512, 4.0), ("softmax", 1024, 16.0), ("linear", 512, 5.0), ("linear", 1024, 10.0))
]


def test_each_value_stands_where_its_row_and_its_column_meet() -> None:
    found = pivot(boards(*CASES), "mechanism", "n", "latency")
    assert found.columns == ["512", "1024"]  # as numbers, not as words
    assert sorted(found.texts()) == [["linear", "5.00", "10.0"], ["softmax", "4.00", "16.0"]]
    assert found.same["pattern"] == "NS"


def test_rows_and_columns_may_be_any_keys() -> None:
    cases = [*CASES, case_rows({"latency": 1.0}, mechanism="softmax", pattern="CS", n=512, m=512)]
    found = pivot(boards(*(case for case in cases if case[0]["mechanism"] == "softmax")), "pattern", "n", "latency")
    assert found.texts() == [["NS", "4.00", "16.0"], ["CS", "1.00", ""]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("mechanism", "pattern", "latency"), r"2 values of latency .* differ in n \(1024, 512\).*seq_len=1024"),
        (("pattern", "n", "latency"), r"differ in mechanism \(linear, softmax\); .*mechanism=linear"),
        (("mechanism", "mechanism", "latency"), "give two keys"),
        (("mechanisms", "n", "latency"), "did you mean 'mechanism'"),
        (("mechanism", "n", "latenci"), "did you mean 'latency'"),
    ],
)
def test_what_gives_no_table_is_said(keys: tuple[str, str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pivot(boards(*CASES), *keys)


def test_files_hold_full_precision_and_pages_escape_names() -> None:
    odd = [case_rows({"latency": (1 / 3, 0.3, 0.4)}, mechanism="<i>|&")]
    found = pivot(boards(*odd), "mechanism", "n", "latency")
    assert pd.read_csv(io.BytesIO(written_pivot(found, "csv")))["latency"].tolist() == [1 / 3]
    assert b"&lt;i&gt;|&amp;" in written_pivot(found, "html")
    assert rb"\<i\>\|&" in written_pivot(found, "md")
    with pytest.raises(UsageError, match="unknown format"):
        written_pivot(found, "badge")


def test_hyper_parameters_that_differ_between_boards_have_rows_of_their_own() -> None:
    cases = [
        case_rows({"latency": 1.0}, mechanism="local", params={"window": window}, n=n, m=n)
        for window, n in ((16, 512), (1024, 2048))
    ]
    found = pivot(boards(*cases), "mechanism", "n", "latency")
    assert found.texts() == [["local window=16", "1.00", ""], ["local window=1024", "", "1.00"]]


@pytest.mark.parametrize("width", [50, 120])
def test_forty_lines_are_printed_unless_all_are_asked_for(width: int) -> None:
    cases = [case_rows({"latency": 1.0 + i}, mechanism=f"m{i:02}") for i in range(60)]
    table = pivot(boards(*cases), "mechanism", "n", "latency")

    def printed(full: bool) -> list[str]:
        file = io.StringIO()
        print_pivot(table, Console(file=file, width=width), full)
        return file.getvalue().splitlines()

    lines = printed(full=False)
    shown = sum(line.startswith("m") and line[1:3].isdecimal() for line in lines)
    assert len(lines) == 40 and f"… and {60 - shown} more rows: --full" in lines[-1]
    assert sum(line.startswith("m") and line[1:3].isdecimal() for line in printed(full=True)) == 60
