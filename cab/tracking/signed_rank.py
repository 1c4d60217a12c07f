"""The signed-rank test, its estimate and interval, and the correction for many tests. scipy is imported when used.

One value is one pair of processes: the logarithm of how many times longer the head took than the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp

LEVEL = 0.95


@dataclass(frozen=True)
class Effect:
    """A relative change with its interval, as shares: 0.05 is 5 % slower."""

    estimate: float
    low: float
    high: float


def p_value(log_ratios: Sequence[float], alternative: str = "two-sided") -> float:
    """Return the exact p of Wilcoxon's signed-rank test that the log ratios are symmetric around 0.

    `alternative` is "two-sided", "greater" (slower) or "less" (faster). Ratios of exactly 1 say nothing and are left
    out; where nothing is left, p is 1.
    """
    from scipy.stats import wilcoxon

    changed = [value for value in log_ratios if value]
    return float(wilcoxon(changed, alternative=alternative, method="exact").pvalue) if changed else 1.0


def effect(log_ratios: Sequence[float]) -> Effect:
    """Return the Hodges-Lehmann estimate of the change and the interval that belongs to the exact test.

    The estimate is the median of the means of all pairs of values (Walsh averages). The interval has a level of at
    least 95 %; with fewer than six values it is everything (Hollander, Wolfe and Chicken 2014, section 3.3).
    """
    from statistics import median

    count = len(log_ratios)
    averages = sorted((log_ratios[i] + log_ratios[j]) / 2 for i in range(count) for j in range(i, count))
    estimate = exp(median(averages)) - 1
    cut = _averages_cut_off(count)
    if cut == 0:
        return Effect(estimate, -1.0, float("inf"))
    return Effect(estimate, exp(averages[cut - 1]) - 1, exp(averages[-cut]) - 1)


@lru_cache
def _averages_cut_off(count: int) -> int:
    """Return which average, counted from either end, bounds the interval; 0 where there are too few values.

    The rank sum T is as likely as the number of subsets of the ranks 1..count that add up to it. The interval from the
    c-th smallest average to the c-th largest misses the centre with probability 2 P(T <= c - 1).
    """
    subsets = [1]
    for rank in range(1, count + 1):
        longer = subsets + [0] * rank
        subsets = [n + (longer[i - rank] if i >= rank else 0) for i, n in enumerate(longer)]
    below, cut = 0, 0
    while (below + subsets[cut]) / 2**count <= (1 - LEVEL) / 2:
        below += subsets[cut]
        cut += 1
    return cut


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return the p values after Benjamini and Hochberg (1995): those up to q have a false discovery rate up to q."""
    from scipy.stats import false_discovery_control

    return [float(p) for p in false_discovery_control(p_values)] if p_values else []
