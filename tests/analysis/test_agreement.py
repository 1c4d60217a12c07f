"""Rank correlations of patterns and of tasks: their value, their interval, and none for too few mechanisms."""

import pytest

from cab.analysis.agreement import FEWEST, agreements, spearman
from cab.analysis.ranking import leaderboard
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows

NAMES = [f"m{i}" for i in range(8)]


def test_spearmans_correlation_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    pairs = [(1.0, 3.0), (2.0, 1.0), (3.0, 3.0), (4.0, 8.0), (5.0, 7.0), (6.0, 2.0)]
    correlation = spearman(pairs)
    assert correlation is not None
    value, low, high = correlation
    assert value == pytest.approx(stats.spearmanr(pairs).statistic)
    assert -1 < low < value < high < 1


def test_equal_values_have_no_order_to_agree_with() -> None:
    assert spearman([(1.0, 2.0), (1.0, 3.0), (1.0, 1.0), (1.0, 4.0)]) is None
    assert spearman([(2.0, 1.0), (3.0, 1.0), (1.0, 1.0), (4.0, 1.0)]) is None


def test_patterns_agree_over_the_mechanisms_that_both_have_at_the_longest_common_length() -> None:
    cases = [
        case_rows(
            {"latency": 1.0 + i if pattern == "NS" or n == 512 else 9.0 - i}, mechanism=name, pattern=pattern, n=n, m=n
        )
        for pattern in ("NS", "CS")
        for n in (512, 1024)
        for i, name in enumerate(NAMES)
    ]
    (found,) = agreements(leaderboard(table_of(*cases), environments()))
    assert (found.kind, found.first, found.second, found.count) == ("pattern", "NS", "CS", 8)
    assert found.value == pytest.approx(-1.0) and "n = 1,024: latency" in found.where


def test_tasks_agree_with_better_on_the_same_side_and_few_mechanisms_give_a_blank() -> None:
    def boards(names: list[str]):  # type: ignore[no-untyped-def]
        cases = [
            training_rows(name, (0.1 * i + 0.1, 0.1 * i, 0.1 * i + 0.2), task=task)
            for task in ("a", "b")
            for i, name in enumerate(names)
        ]
        return leaderboard(table_of(*cases), environments())

    (found,) = agreements(boards(NAMES))
    assert found.kind == "task" and found.value == pytest.approx(1.0)
    (blank,) = agreements(boards(NAMES[: FEWEST - 1]))
    assert blank.value is None and blank.count == FEWEST - 1


def test_tasks_that_were_scored_on_other_machines_say_so() -> None:
    def where(*machines: str) -> str:
        cases = [
            training_rows(name, 0.1 * i + 0.1, task=task, environment_id=machine)
            for task, machine in zip("ab", machines, strict=True)
            for i, name in enumerate(NAMES)
        ]
        (found,) = agreements(leaderboard(table_of(*cases), environments("one", "two")))
        return found.where

    assert "several machines" in where("one", "two") and "several machines" not in where("two", "two")
