"""One mechanism against another: each case once, and one name for one thing."""

import pytest

from cab.analysis.comparison import comparisons
from cab.analysis.ranking import leaderboard
from cab.errors import UsageError
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows, with_columns


def test_a_score_that_stands_on_the_boards_of_two_machines_is_compared_once() -> None:
    scored = [training_rows(name, (x, x - 0.01, x + 0.01)) for name, x in (("softmax", 0.9), ("agent", 0.6))]
    timed = [
        with_columns(training_rows(name, 0.5), metric="latency", unit="seconds", value=1.0, environment_id=machine)
        for name in ("softmax", "agent")
        for machine in ("one", "two")
    ]
    boards = leaderboard(table_of(*scored, *timed), environments("one", "two"))
    assert len(boards) == 2
    assert [pair.verdict for pair in comparisons(boards, "agent", "softmax")] == ["worse"]
    assert len(comparisons(boards, "agent", "softmax", "latency")) == 1  # equal, and so one


def test_hyper_parameters_that_no_single_board_tells_apart_are_told_apart_over_all() -> None:
    cases = [case_rows({"latency": 1.0}, mechanism="softmax", n=n, m=n) for n in (512, 2048)]
    cases += [
        case_rows({"latency": 0.5}, mechanism="local", params={"window": window}, n=n, m=n)
        for window, n in ((16, 512), (1024, 2048))
    ]
    boards = leaderboard(table_of(*cases), environments())
    with pytest.raises(UsageError, match="local window=16"):
        comparisons(boards, "local", "softmax")
    (pair,) = comparisons(boards, "local window=16", "softmax")
    assert pair.board.question["n"] == 512
