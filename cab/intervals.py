"""95 % intervals. Imports no torch; scipy is imported when an interval needs it."""

from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import NormalDist, fmean, median, stdev
from typing import Any

LEVEL = 0.95
# of Student's t for LEVEL, from one degree of freedom on: those of a timing's few processes, for which scipy would be
# imported in every job, half a second of the processor
_FIRST_QUANTILES = (12.706204736174694, 4.302652729749462, 3.1824463052837078, 2.7764451051977934, 2.5705818356363146)


def student(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval for the mean, or None for fewer than two values."""
    if len(values) < 2:
        return None
    mean = fmean(values)
    half_width = student_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return mean - half_width, mean + half_width


def student_of_logs(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval of the geometric mean, for positive values; None for fewer than two."""
    interval = student([log(value) for value in values])
    return None if interval is None else (exp(interval[0]), exp(interval[1]))


def student_of_ratio(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval for sum(sums) / sum(counts), or None for fewer than two examples.

    Both vary by example, so that the variance is that of the linearised ratio estimator (Cochran 1977, chapter 6).
    """
    if len(sums) < 2:
        return None
    ratio = sum(sums) / sum(counts)
    deviation = stdev([s - ratio * c for s, c in zip(sums, counts, strict=True)]) / fmean(counts)
    half_width = student_quantile(len(sums) - 1) * deviation / sqrt(len(sums))
    return ratio - half_width, ratio + half_width


def mean_score(samples: Sequence[Any]) -> tuple[float, tuple[float, float] | None]:
    """Return the mean of the examples' scores with its interval, None where there is none.

    A score is a number, or a pair of sum and count, which is weighted by its count. The interval is Wilson's where all
    scores are 0 or 1 and where all pairs are wrong, or all right, so that Student's would have no width.
    """
    if isinstance(samples[0], list | tuple):
        sums, counts = [float(s) for s, _ in samples], [float(c) for _, c in samples]
        value = sum(sums) / sum(counts)
        all_or_none = not any(sums) or sums == counts
        return value, wilson(value * len(samples), len(samples)) if all_or_none else student_of_ratio(sums, counts)
    value = sum(samples) / len(samples)
    return value, wilson(sum(samples), len(samples)) if all(s in (0, 1) for s in samples) else student(samples)


def wilson(successes: float, total: int) -> tuple[float, float]:
    """Return Wilson's interval for a proportion (Wilson 1927). It is inside [0, 1] and not empty at 0 and 1."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    p = successes / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    half_width = z / (1 + z * z / total) * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    # at 0 and 1 one end is exactly 0 or 1, which rounding could miss
    return 0.0 if successes == 0 else centre - half_width, 1.0 if successes == total else centre + half_width


def half_width_of_median(values: Sequence[float]) -> float:
    """Return the half-width of the distribution-free interval of the median, divided by the median.

    The ends of the interval are two order statistics. The result is infinite where there are too few values.
    """
    n, z = len(values), NormalDist().inv_cdf((1 + LEVEL) / 2)
    low, high = int((n - z * sqrt(n)) // 2), int(-(-(n + z * sqrt(n)) // 2))
    if low < 0 or high >= n:
        return float("inf")
    ordered = sorted(values)
    median = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return (ordered[high] - ordered[low]) / (2 * median)


def student_quantile(degrees_of_freedom: int) -> float:
    """Return the quantile of Student's t that bounds a two-sided interval of LEVEL."""
    if degrees_of_freedom <= len(_FIRST_QUANTILES):
        return _FIRST_QUANTILES[degrees_of_freedom - 1]
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, (1 + LEVEL) / 2))


def balanced_median(values: Sequence[float], flipped: Sequence[bool]) -> float:
    """Return the mean of two medians: of the values whose pair was measured in one order, and of those in the other.

    Where the order is flipped each time, what comes first in a pair has just run, as the second of the pair before, and
    finds its data in the caches. The ratios of the two orders then lie apart by up to a third, and the median of all of
    them is anywhere between. Values of one order alone have their median.
    """
    orders = [[value for value, flip in zip(values, flipped, strict=True) if flip is which] for which in (False, True)]
    return fmean(median(order) for order in orders if order)
