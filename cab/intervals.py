"""The 95 % intervals that stand beside values. No torch, and scipy only when one is asked for."""

from collections.abc import Sequence
from math import exp, log, sqrt
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95


def student(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval for the mean, or None for fewer than two values."""
    if len(values) < 2:
        return None
    centre, half = fmean(values), student_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return centre - half, centre + half


def student_of_logs(values: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval on the log scale, for positive values whose errors multiply."""
    found = student([log(value) for value in values])
    return None if found is None else (exp(found[0]), exp(found[1]))


def student_of_ratio(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's t interval for sum / count, where both vary by example (the linearised ratio estimator)."""
    if len(sums) < 2:
        return None
    ratio = sum(sums) / sum(counts)
    spread = stdev([s - ratio * c for s, c in zip(sums, counts, strict=True)]) / fmean(counts)
    half = student_quantile(len(sums) - 1) * spread / sqrt(len(sums))
    return ratio - half, ratio + half


def wilson(successes: float, total: int) -> tuple[float, float]:
    """Return Wilson's interval for a share (Wilson 1927): inside [0, 1], and not empty at 0 or 1."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share = successes / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # at 0 and 1 one bound is exact, which rounding would miss
    return 0.0 if successes == 0 else centre - half, 1.0 if successes == total else centre + half


def half_width_of_median(values: Sequence[float]) -> float:
    """Return half the width of the distribution-free interval of the median, as a share of it.

    The interval lies between two order statistics; infinite where the values are too few for one.
    """
    n, z = len(values), NormalDist().inv_cdf((1 + LEVEL) / 2)
    low, high = int((n - z * sqrt(n)) // 2), int(-(-(n + z * sqrt(n)) // 2))
    if low < 0 or high >= n:
        return float("inf")
    ordered = sorted(values)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return (ordered[high] - ordered[low]) / (2 * middle)


def student_quantile(freedom: int) -> float:
    """Return the quantile of Student's t that a two-sided interval of LEVEL reaches to."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
