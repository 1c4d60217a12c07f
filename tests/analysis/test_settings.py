"""Which settings tell boards apart."""

from cab.analysis.ranking import leaderboard
from cab.analysis.settings import differing_settings
from cab.contracts.case import canonical
from cab.planning.points import OTHERS_KEY
from cab.report.notes import conditions, settings_that_differ
from tests.analysis.example_rows import case_rows, table_of


def test_settings_that_differ_are_named_and_the_others_are_not() -> None:
    slow = {"task": {"layers": 2}, "training": {"lr": 0.001, "steps": 10}}
    fast = {"task": {"layers": 2}, "training": {"lr": 0.01, "steps": 10}}
    cases = [case_rows({"latency": 1.0}, settings=settings) for settings in (slow, fast)]
    boards = leaderboard(table_of(*cases))
    assert differing_settings(boards) == {
        canonical(slow): {"training.lr": 0.001},
        canonical(fast): {"training.lr": 0.01},
    }
    assert settings_that_differ(boards) == {canonical(slow): "training.lr=0.001", canonical(fast): "training.lr=0.01"}


def test_what_stands_in_the_other_slots_has_the_key_of_the_command_line() -> None:
    cases = [case_rows({"latency": 1.0}, settings=settings) for settings in ({}, {"others": "none"})]
    boards = leaderboard(table_of(*cases))
    assert settings_that_differ(boards) == {canonical({}): "", canonical({"others": "none"}): f"{OTHERS_KEY}=none"}
    assert any("others none" in conditions(board) for board in boards)
