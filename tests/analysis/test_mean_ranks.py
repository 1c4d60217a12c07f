"""Mean ranks over tasks, and paired differences."""

import pytest

from cab.analysis.aggregates import Aggregate
from cab.analysis.mean_ranks import critical_difference, mean_ranks, paired_differences


def aggregate(name: str, scores: list[float], missing: tuple[str, ...] = ()) -> Aggregate:
    """Make an aggregate of the scores on tasks."""
    by_task = {f"t{i}": score for i, score in enumerate(scores)}
    return Aggregate(name, sum(scores) / len(scores), None, None, by_task, missing)


@pytest.mark.parametrize(("mechanisms", "quantile"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_is_that_of_the_published_table(mechanisms: int, quantile: float) -> None:
    # Demsar 2006, table 5a
    assert critical_difference(mechanisms, 6) == pytest.approx(
        quantile * (mechanisms * (mechanisms + 1) / 36) ** 0.5, rel=1e-3
    )


def test_mean_ranks_share_ties_and_group_what_is_not_told_apart() -> None:
    aggregates = [
        aggregate("best", [0.9] * 12),
        aggregate("tied", [0.5] * 12),
        aggregate("as good", [0.5] * 12),
        aggregate("worst", [0.1] * 12),
        aggregate("partial", [1.0] * 11, ("t11",)),
    ]
    ranks = mean_ranks(aggregates)
    assert ranks is not None
    assert ranks.ranks == {"best": 1.0, "as good": 2.5, "tied": 2.5, "worst": 4.0}
    assert ranks.critical_difference == pytest.approx(2.569 * (20 / 72) ** 0.5, rel=1e-3)
    assert ranks.groups == [("as good", "tied")]


def test_groups_overlap_and_none_lies_within_another() -> None:
    scores = {name: [float(-i)] * 10 for i, name in enumerate("abcdefgh")}
    ranks = mean_ranks([aggregate(name, of) for name, of in scores.items()])
    assert ranks is not None and 3 < ranks.critical_difference < 4
    assert ranks.groups == [tuple("abcd"), tuple("bcde"), tuple("cdef"), tuple("defg"), tuple("efgh")]


def test_below_ten_tasks_there_are_differences_from_the_best_instead() -> None:
    aggregates = [
        aggregate("x", [0.5, 0.7, 0.6]),
        aggregate("best", [0.9, 0.8, 0.5]),
        aggregate("part", [2.0], ("t1",)),
    ]
    assert mean_ranks(aggregates) is None
    (pair,) = paired_differences(aggregates)
    assert (pair.mechanism, pair.against, pair.better, pair.tasks) == ("x", "best", 1, 3)
    assert pair.value == pytest.approx(-0.4 / 3)
    assert pair.low is not None and pair.high is not None and pair.low < pair.value < pair.high
