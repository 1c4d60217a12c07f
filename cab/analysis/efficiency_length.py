"""The efficiency length: the length from which a mechanism beats softmax (CAB, arXiv 2210.07661, section 4.4).

`efficiency_length` brackets it by two measured lengths. It never extrapolates and never uses a fitted curve.
`efficiency_length_cab` is CAB's own procedure, for comparison with CAB's published table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any

from cab.analysis.curves import CostAtLength, Curve, curves
from cab.analysis.ranking import CONTROL_MECHANISMS

if TYPE_CHECKING:
    from pandas import DataFrame

MIN_LENGTHS = 2  # one length says how a cost compares there, and nothing of where it starts to be lower
# the columns of `efficiency_lengths` where no curve has an answer
_COLUMNS = "mechanism params backend pattern pass metric against answer length low high shortest longest text".split()
_ZERO_COST_LOG_RATIO = 1e9  # stands for the log of a ratio in which one cost is zero


@dataclass(frozen=True)
class EfficiencyLength:
    """The length from which a cost lies below softmax's at every longer measured length.

    `answer` is one of three:

    - `from`: `length` is the crossing, interpolated between two neighbouring measured lengths. `low` and `high` are
      the ends of its 95 % interval. `low` is None where the crossing may lie before the shortest measured length,
      `high` is None where it may lie after the longest.
    - `already`: the cost is lower at every measured length. `high` is the shortest of them. `low` is None, or the same
      length where the intervals of the costs overlap and the answer is not certain.
    - `never`: the cost is not lower at the longest measured length, which is `low`. `high` is None, or the same length
      where the answer is not certain.
    """

    answer: str
    length: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.answer == "from":
            low, high = ("?" if end is None else f"{end:.0f}" for end in (self.low, self.high))
            return f"from {self.length:.0f} ({low} to {high})"
        if self.answer == "already":
            return f"already at {self.high:.0f}" + ("" if self.low is None else " (not certain)")
        return f"not at {self.low:.0f}, the longest" + ("" if self.high is None else " (not certain)")


def efficiency_length(costs: Sequence[CostAtLength], softmax_costs: Sequence[CostAtLength]) -> EfficiencyLength | None:
    """Return where `costs` falls below `softmax_costs` and stays there; None where they share fewer than MIN_LENGTHS.

    The crossing is interpolated between the two measured lengths around it, on the logs of cost ratio and length. The
    ends of its interval are the crossings of the smallest and of the largest ratio that the costs' intervals allow.
    """
    softmax_at = {cost.n: cost for cost in softmax_costs}
    pairs = [(cost, softmax_at[cost.n]) for cost in sorted(costs, key=lambda cost: cost.n) if cost.n in softmax_at]
    if len(pairs) < MIN_LENGTHS:
        return None
    lengths = [cost.n for cost, _ in pairs]
    shortest, longest = float(lengths[0]), float(lengths[-1])
    crossing = _crossing(lengths, [_log_ratio(cost.value, softmax.value) for cost, softmax in pairs])
    earliest = _crossing(lengths, [_log_ratio(cost.low, softmax.high) for cost, softmax in pairs])
    latest = _crossing(lengths, [_log_ratio(cost.high, softmax.low) for cost, softmax in pairs])
    if crossing == 0:
        return EfficiencyLength("already", None, None if latest == 0 else shortest, shortest)
    if crossing is None:
        return EfficiencyLength("never", None, longest, None if earliest is None else longest)
    return EfficiencyLength("from", crossing, None if earliest == 0 else earliest, latest or None)


def _crossing(lengths: Sequence[int], log_ratios: Sequence[float]) -> float | None:
    """Return the length from which every log ratio is below 0: 0 where all are, None where the last is not."""
    not_below = [i for i, log_ratio in enumerate(log_ratios) if log_ratio >= 0]
    if not not_below:
        return 0
    i = not_below[-1]
    if i == len(lengths) - 1:
        return None
    fraction = log_ratios[i] / (log_ratios[i] - log_ratios[i + 1])
    return exp(log(lengths[i]) + fraction * (log(lengths[i + 1]) - log(lengths[i])))


def _log_ratio(cost: float, softmax_cost: float) -> float:
    if cost <= 0:  # no memory was allocated
        return -_ZERO_COST_LOG_RATIO if softmax_cost > 0 else 0.0
    return log(cost / softmax_cost) if softmax_cost > 0 else _ZERO_COST_LOG_RATIO


def efficiency_lengths(rows: "DataFrame", against: Sequence[str] = ("eager", "sdpa")) -> "DataFrame":
    """Return a table with one row for each curve and each softmax backend in `against` that has the same settings.

    Columns: mechanism, params, backend, pattern, pass, metric, against, answer, length, low, high (as in
    `EfficiencyLength`), shortest and longest (of the shared lengths), text, and the settings of the two curves.
    """
    import pandas as pd

    table_rows = list(_table_rows(list(curves(rows)), against))
    return pd.DataFrame(table_rows, columns=None if table_rows else _COLUMNS)


def _table_rows(all_curves: list[Curve], against: Sequence[str]) -> Iterator[dict[str, Any]]:
    softmax_curves: dict[tuple[Any, ...], list[Curve]] = {}
    for curve in all_curves:
        if curve.mechanism == "softmax":
            softmax_curves.setdefault((curve.backend, *curve.setting.values()), []).append(curve)
    for curve in all_curves:
        if curve.mechanism in ("softmax", *CONTROL_MECHANISMS):
            continue
        for backend in against:
            for softmax in softmax_curves.get((backend, *curve.setting.values()), []):
                result = efficiency_length(curve.costs, softmax.costs)
                if result is None:
                    continue
                shared = sorted({cost.n for cost in curve.costs} & {cost.n for cost in softmax.costs})
                setting = {name: value for name, value in curve.setting.items() if name != "unit"}
                yield {
                    "mechanism": curve.mechanism,
                    "params": curve.params,
                    "backend": curve.backend,
                    "pattern": setting.pop("pattern"),
                    "pass": setting.pop("pass"),
                    "metric": setting.pop("metric"),
                    "against": f"softmax {backend}",
                    "answer": result.answer,
                    "length": result.length,
                    "low": result.low,
                    "high": result.high,
                    "shortest": shared[0],
                    "longest": shared[-1],
                    "text": str(result),
                    **setting,
                }


def efficiency_length_cab(
    lengths: Sequence[int], vanilla: Sequence[float], efficient: Sequence[float], drop_first: bool
) -> float | None:
    """Return CAB's efficiency length: the larger root of a parabola through softmax's costs minus a straight line.

    The costs of softmax (`vanilla`) are fitted by a n^2 + b n + c, those of the other mechanism (`efficient`) by
    d n + e, both by least squares. For times CAB leaves the first length out of the line's fit (`drop_first`). None
    where the two curves do not meet. The root may lie below the first length, where the line is extrapolated, and has
    no interval: use it only for comparison with CAB's published table.
    """
    import numpy as np

    a, b, c = np.polyfit(lengths, vanilla, 2)
    first = 1 if drop_first else 0
    d, e = np.polyfit(lengths[first:], efficient[first:], 1)
    discriminant = (b - d) ** 2 - 4 * a * (c - e)
    return float((-(b - d) + sqrt(discriminant)) / (2 * a)) if discriminant >= 0 and a else None
