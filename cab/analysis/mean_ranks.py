"""Whether mechanisms can be told apart over tasks: by their mean ranks from ten tasks on, by paired differences below.

Mean ranks with the critical difference of Nemenyi's test: J. Demsar, Statistical comparisons of classifiers over
multiple data sets, JMLR 7, 2006.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import fmean

from cab.analysis.aggregates import Aggregate
from cab.intervals import LEVEL, student

TASKS_FOR_RANKS = 10  # with fewer, the test tells hardly anything apart


@dataclass(frozen=True)
class MeanRanks:
    """The mean ranks over the tasks, 1 being the best, in their order."""

    ranks: dict[str, float]
    critical_difference: float  # two mean ranks that differ by less are not told apart
    groups: list[tuple[str, ...]]  # mechanisms that are not told apart, each as large as it can be


@dataclass(frozen=True)
class PairedDifference:
    """A mechanism's aggregate less that of another, over the tasks, with Student's t interval."""

    mechanism: str
    against: str
    value: float
    low: float | None  # None for one task
    high: float | None
    better: int  # tasks on which it is better
    tasks: int


def mean_ranks(aggregates: Sequence[Aggregate]) -> MeanRanks | None:
    """Return the mean ranks of the mechanisms that have every task; None for fewer than TASKS_FOR_RANKS tasks."""
    scores = complete_scores(aggregates)
    tasks = list(next(iter(scores.values()), {}))
    if len(tasks) < TASKS_FOR_RANKS or len(scores) < 2:
        return None
    means = {name: fmean(_rank(of[task], [other[task] for other in scores.values()]) for task in tasks)
             for name, of in scores.items()}  # fmt: skip
    ranks = dict(sorted(means.items(), key=lambda item: (item[1], item[0])))
    difference = critical_difference(len(ranks), len(tasks))
    return MeanRanks(ranks, difference, _groups(ranks, difference))


def critical_difference(mechanisms: int, tasks: int) -> float:
    """Return Nemenyi's critical difference of two mean ranks, at 95 %: q sqrt(k (k + 1) / (6 N)).

    q is the quantile of the studentised range of k values, for infinitely many degrees of freedom, divided by sqrt(2).
    """
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(LEVEL, mechanisms, inf)) / sqrt(2)
    return quantile * sqrt(mechanisms * (mechanisms + 1) / (6 * tasks))


def paired_differences(aggregates: Sequence[Aggregate]) -> list[PairedDifference]:
    """Return the difference of each mechanism that has every task from the best of them."""
    scores = complete_scores(aggregates)
    differences = []
    for against, best in list(scores.items())[:1]:
        for name, of in list(scores.items())[1:]:
            values = [of[task] - best[task] for task in best]
            low, high = student(values) or (None, None)
            better = sum(value > 0 for value in values)
            differences.append(PairedDifference(name, against, fmean(values), low, high, better, len(values)))
    return differences


def complete_scores(aggregates: Sequence[Aggregate]) -> dict[str, Mapping[str, float]]:
    """Return mechanism -> task -> score, of the mechanisms that have every task, the best first."""
    complete = sorted((each for each in aggregates if not each.missing), key=lambda each: -each.value)
    return {each.mechanism: each.scores for each in complete}


def _rank(score: float, scores: Sequence[float]) -> float:
    """Return the rank of a score among all, 1 for the highest; equal scores share the mean of their ranks."""
    higher, equal = sum(other > score for other in scores), sum(other == score for other in scores)
    return higher + (equal + 1) / 2


def _groups(ranks: Mapping[str, float], difference: float) -> list[tuple[str, ...]]:
    """Return the longest runs, of two mechanisms or more, whose ends differ by less than the critical difference."""
    names, groups, covered = list(ranks), list[tuple[str, ...]](), 0
    for i, name in enumerate(names):
        end = max(j for j in range(i, len(names)) if ranks[names[j]] - ranks[name] < difference) + 1
        if end > max(covered, i + 1):
            groups.append(tuple(names[i:end]))
            covered = end
    return groups
