"""Which rows stand on one board, and on the board of which machine."""

from typing import Any

import pytest

from cab.analysis import questions
from cab.analysis.ranking import leaderboard
from cab.analysis.statuses import StatusCount, status_counts
from cab.contracts.case import canonical
from tests.analysis.example_rows import (
    board_of,
    case_rows,
    environments,
    lines_by_label,
    table_of,
    training_rows,
    with_columns,
)  # fmt: skip

# written out, because `QUESTION` in cab.analysis.questions is what the test is about
QUESTION_COLUMNS = (
    "task level pass scale task_version data_source protocol schema batch heads dim dtype device settings pattern n m"
)


def on_machine_two(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return with_columns(rows, environment_id="two")


@pytest.mark.parametrize("column", QUESTION_COLUMNS.split())
def test_rows_that_differ_in_what_was_asked_are_never_ranked_together(column: str) -> None:
    softmax = case_rows({"latency": (1.0, 0.9, 1.1)})
    linear = case_rows({"latency": (2.0, 1.9, 2.1)}, mechanism="linear")
    value = linear[0][column]
    changed = value + 1 if isinstance(value, int) else canonical({"padding": 0.5}) if column == "settings" else "CS"
    boards = leaderboard(table_of(softmax, with_columns(linear, **{column: changed})), environments())
    assert sorted([line.mechanism for line in board.lines] for board in boards) == [["linear"], ["softmax"]]


def test_times_stand_with_their_machine_and_scores_with_every_machine() -> None:
    on_one = case_rows({"latency": 1.0, "flops": 8e9, "accuracy": (0.6, 0.5, 0.7)})
    on_two = on_machine_two(case_rows({"latency": 2.0}, mechanism="linear"))
    boards = leaderboard(table_of(on_one, on_two), environments("one", "two"))
    assert ["host-one" in board.machine for board in boards] == [True, False]
    assert [line.mechanism for line in boards[0].lines if "latency" in line.cells] == ["softmax"]
    assert [line.mechanism for line in boards[1].lines if "latency" in line.cells] == ["linear"]
    assert all(lines_by_label(board)["softmax"].cells["accuracy"].value == 0.6 for board in boards)


def test_one_case_on_two_machines_is_two_answers() -> None:
    on_two = with_columns(case_rows({"latency": 2.0}), environment_id="two", time="2")
    boards = leaderboard(table_of(case_rows({"latency": 1.0}), on_two), environments("one", "two"))
    assert [board.lines[0].cells["latency"].value for board in boards] == [1.0, 2.0]


def test_bytes_that_are_counted_belong_to_no_machine() -> None:
    counted = case_rows({"latency": 1.0, "peak_allocated": 8.0, "flops": 8e9, "bytes_needed": 4.0})
    on_two = on_machine_two(case_rows({"latency": 2.0, "peak_allocated": 8.0}))
    boards = leaderboard(table_of(counted, on_two), environments("one", "two"))
    assert [board.lines[0].cells["bytes_needed"].value for board in boards] == [4.0, 4.0]
    counted_on_one, timed_on_two = case_rows({"flops": 8e9, "bytes_needed": 4.0}), case_rows({"latency": 2.0})
    boards = leaderboard(table_of(counted_on_one, on_machine_two(timed_on_two)), environments("one", "two"))
    assert len(boards) == 1 and "host-two" in boards[0].machine


def test_allocators_and_clocks_make_no_second_machine() -> None:
    same_host = environments("one", "two").assign(
        host="same", allocator=["glibc", "glibc, pinned"], clock_mhz=[2000, 3000]
    )
    latency, memory = case_rows({"latency": 1.0}), on_machine_two(case_rows({"peak_allocated": 8.0}))
    board = board_of(latency, memory, environment_table=same_host)
    assert {metric.name for metric in board.metrics} == {"latency", "peak_allocated"}


def test_of_one_case_and_machine_the_newest_row_counts() -> None:
    old, new = case_rows({"latency": 1.0}), with_columns(case_rows({"latency": 3.0}), time="2")
    assert board_of(new, old).lines[0].cells["latency"].value == 3.0


def test_learning_curves_are_no_answers() -> None:
    curve = with_columns(training_rows("softmax", 0.0), step=100, split="validation", value=0.9)
    assert board_of(training_rows("softmax", (0.6, 0.5, 0.7)), curve).lines[0].cells["accuracy"].value == 0.6
    assert status_counts(table_of(training_rows("softmax", 0.6), curve)) == {"ok": StatusCount(rows=1, cases=1)}


def test_what_failed_everywhere_stands_without_a_machine_of_its_own() -> None:
    refused = case_rows({"latency": ("unsupported", "no CS")}, mechanism="agent", environment_id=None)
    board = board_of(case_rows({"latency": 1.0}), refused)
    assert [(line.label, line.rank, line.status) for line in board.lines] == [
        ("softmax", 1, "ok"),
        ("agent", None, "unsupported"),
    ]


def test_a_training_that_failed_before_its_data_were_known_stands_with_the_others() -> None:
    timed_out = training_rows("agent", ("timeout", "took more than 600 s"), data_source="")
    board = board_of(training_rows("softmax", (0.64, 0.62, 0.66)), timed_out)
    assert set(lines_by_label(board)) == {"softmax", "agent"} and board.question["data_source"] == "aclImdb"


@pytest.mark.parametrize(
    ("column", "earlier", "asked", "later"), [("protocol", "", None, "x"), ("task_version", 0, 0, 1)]
)
def test_an_empty_value_of_a_data_column_is_a_value(column: str, earlier: Any, asked: Any, later: Any) -> None:
    cases = [with_columns(training_rows("softmax", 0.5), **{column: value}) for value in (earlier, later)]
    boards = leaderboard(table_of(*cases), environments())
    assert [board.question[column] for board in boards] == [asked, later]


def test_a_row_without_a_protocol_stands_with_one_of_none() -> None:
    older = with_columns(training_rows("linear", 0.4), protocol=None)
    assert set(lines_by_label(board_of(training_rows("softmax", 0.5), older))) == {"softmax", "linear"}


def test_a_large_table_read_in_parts_gives_the_same_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        case_rows({"latency": (1.0, 0.9, 1.1), "flops": 5.0}, mechanism=name, pattern=pattern, n=n, m=n)
        for name in ("softmax", "linear")
        for pattern in ("NS", "CC")
        for n in (64, 128)
    ]
    failed = {"task": "lra_text", "level": "model", "pass": "train", "data_source": ""}
    cases += [training_rows("softmax", 0.5), case_rows({"accuracy": ("oom", "no memory")}, mechanism="large", **failed)]
    table = table_of(*cases, on_machine_two(cases[0]))
    whole = leaderboard(table, environments("one", "two"))
    monkeypatch.setattr(questions, "ROWS_AT_ONCE", 1)
    assert leaderboard(table, environments("one", "two")) == whole and len(whole) == 6
