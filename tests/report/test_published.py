"""Published numbers beside a board."""

from typing import Any

from cab.analysis.leaderboard import Board, Metric
from cab.report.published import published_lines

ACCURACY = Metric("accuracy", "fraction", True, True)


def board(**changes: Any) -> Board:
    """Make a board of accuracy without lines."""
    return Board({"task": "lra_text", "pattern": "NS", **changes}, "", [ACCURACY], ACCURACY, [])


def test_a_source_s_floor_and_ceiling_are_named_and_marked() -> None:
    lines = list(published_lines(board()))
    own = "table 1: published ceiling 65.9 % (linear), published floor 53.0 % (local), softmax 64.3 %"
    assert f"arXiv 2011.04006, {own}" in lines and len(lines) == 5
    assert lines[-1] == "arXiv 2209.10655: published ceiling of all 90.4 % (mega)"
    assert len(list(published_lines(board(task="lra_pathx")))) == 1  # no source compares mechanisms on it


def test_another_task_or_pattern_has_none() -> None:
    assert not list(published_lines(board(pattern="CS"))) and not list(published_lines(board(task="mine")))
