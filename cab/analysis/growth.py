"""How a cost grows with the length n: a fitted exponent with its interval, beside the one that the card declares."""

import re
from dataclasses import dataclass
from math import log, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cab.analysis.curves import SETTING_COLUMNS, Curve, curves
from cab.errors import UsageError
from cab.intervals import student_quantile
from cab.plugins import registry

if TYPE_CHECKING:
    from pandas import DataFrame

MIN_LENGTHS = 3  # that a fit needs
# A mechanism disagrees with its card where the whole interval of the exponent lies this far above the declared one.
EXPONENT_TOLERANCE = 0.25
_FIRST_COLUMNS = "mechanism params backend pattern pass metric exponent low high lengths declared agrees".split()


@dataclass(frozen=True)
class Growth:
    """cost ~ n ** exponent, with the 95 % interval of the exponent."""

    exponent: float
    low: float
    high: float
    lengths: int  # how many lengths were fitted


def growth(curve: Curve) -> Growth | None:
    """Fit the exponent by least squares on the logs. None where fewer than three lengths have a cost above zero."""
    points = [(log(cost.n), log(cost.value)) for cost in curve.costs if cost.value > 0]
    if len(points) < MIN_LENGTHS:
        return None
    mean_x, mean_y = fmean(x for x, _ in points), fmean(y for _, y in points)
    sum_xx = sum((x - mean_x) ** 2 for x, _ in points)
    if not sum_xx:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum_xx
    residual = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    degrees_of_freedom = len(points) - 2
    half_width = student_quantile(degrees_of_freedom) * sqrt(residual / degrees_of_freedom / sum_xx)
    return Growth(slope, slope - half_width, slope + half_width, len(points))


def declared_exponent(cost: str) -> float | None:
    """Return the power of the length in a card's cost: `O(n m d)` is 2, `O((n + m) d^2)` is 1; None where unclear."""
    expression = re.fullmatch(r"O\((.*)\)", cost.replace("²", "^2").strip())
    if not expression:
        return None
    text = re.sub(r"\bmax_len\b|\bsource_len\b", "n", expression[1])
    text = re.sub(r"\(\s*n\s*\+\s*m\s*\)", "n", text)
    text = re.sub(r"\([^nm]*\)", "", text)  # n (window + d): a sum without a length is a constant factor
    if "(" in text:
        return None
    return max(_power(term) for term in text.split("+"))


def _power(term: str) -> float:
    without_logs = re.sub(r"log2?\s*[nm]", "", term)
    total = 0.0
    for root, _, power in re.findall(r"(sqrt\s*)?\b([nm])\b(?:\s*\^\s*([\d.]+))?", without_logs):
        total += (float(power) if power else 1.0) * (0.5 if root else 1.0)
    return total


def growths(rows: "DataFrame") -> "DataFrame":
    """Return a table with one row for each curve that can be fitted.

    Columns: mechanism, params, backend, the settings, exponent, low, high, lengths (how many), declared (the exponent
    on the card) and agrees. The last two are missing for memory, because a card declares operations.
    """
    import pandas as pd

    table_rows: list[dict[str, Any]] = []
    for curve in curves(rows):
        fit = growth(curve)
        if fit is None:
            continue
        declared = _declared(curve.mechanism) if curve.setting["metric"] == "latency" else None
        # Slower growth agrees: at short lengths the part of the time that does not depend on n weighs most.
        agrees = None if declared is None else fit.low <= declared + EXPONENT_TOLERANCE
        table_rows.append(
            {
                "mechanism": curve.mechanism,
                "params": curve.params,
                "backend": curve.backend,
                **curve.setting,
                "exponent": fit.exponent,
                "low": fit.low,
                "high": fit.high,
                "lengths": fit.lengths,
                "declared": declared,
                "agrees": agrees,
            }
        )
    other_columns = [name for name in SETTING_COLUMNS if name not in _FIRST_COLUMNS]
    return pd.DataFrame(table_rows, columns=_FIRST_COLUMNS + other_columns)


def _declared(mechanism: str) -> float | None:
    """Return the exponent on a mechanism's card; None for a user's file and for a card that cannot be read."""
    if registry.is_file(mechanism) or mechanism not in registry.names("mechanism"):
        return None
    try:
        return declared_exponent(registry.card("mechanism", mechanism).facts["cost"])
    except UsageError:
        return None
