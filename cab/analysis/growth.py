"""How a cost grows in n: the fitted exponent with its interval, beside what the card declares."""

import re
from dataclasses import dataclass
from math import log, sqrt
from statistics import fmean
from typing import TYPE_CHECKING, Any

from cab.analysis.curves import FIXED, Curve, curves
from cab.errors import UsageError
from cab.intervals import student_quantile
from cab.plugins import registry

if TYPE_CHECKING:
    from pandas import DataFrame

LEAST = 3  # lengths that a fit needs
CLOSE = 0.25  # an exponent of time above the declared one by more than this, interval and all, disagrees with the card


@dataclass(frozen=True)
class Growth:
    """cost ~ n ** exponent over the measured lengths."""

    exponent: float
    low: float
    high: float
    lengths: int


def growth(curve: Curve) -> Growth | None:
    """Fit the exponent by least squares on the logs; None for fewer than three lengths or a cost of nothing."""
    points = [(log(p.n), log(p.value)) for p in curve.points if p.value > 0]
    if len(points) < LEAST:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    centre, level = fmean(xs), fmean(ys)
    spread = sum((x - centre) ** 2 for x in xs)
    if not spread:
        return None
    slope = sum((x - centre) * (y - level) for x, y in points) / spread
    left = sum((y - level - slope * (x - centre)) ** 2 for x, y in points)
    half = student_quantile(len(points) - 2) * sqrt(left / (len(points) - 2) / spread)
    return Growth(slope, slope - half, slope + half, len(points))


def declared_exponent(cost: str) -> float | None:
    """Read the power of the length from a card's cost: `O(n m d)` is 2, `O((n + m) d^2)` is 1; None where unclear."""
    inside = re.fullmatch(r"O\((.*)\)", cost.replace("²", "^2").strip())
    if not inside:
        return None
    text = re.sub(r"\bmax_len\b|\bsource_len\b", "n", inside[1])
    text = re.sub(r"\(\s*n\s*\+\s*m\s*\)", "n", text)
    if "(" in re.sub(r"\([^nm]*\)", "", text):  # n (window + d): a sum without a length is a constant
        return None
    text = re.sub(r"\([^nm]*\)", "", text)
    return max(_power(term) for term in text.split("+"))


def _power(term: str) -> float:
    term = re.sub(r"log2?\s*[nm]", "", term)  # a logarithm is no power
    total = 0.0
    for root, _, power in re.findall(r"(sqrt\s*)?\b([nm])\b(?:\s*\^\s*([\d.]+))?", term):
        total += (float(power) if power else 1.0) * (0.5 if root else 1.0)
    return total


def growths(rows: "DataFrame") -> "DataFrame":
    """Return a table: the exponent of each measured curve, its interval, the declared one, and whether they agree."""
    import pandas as pd

    found: list[dict[str, Any]] = []
    for curve in curves(rows):
        fitted = growth(curve)
        if fitted is None:
            continue
        declared = None if registry.is_file(curve.mechanism) else _declared(curve.mechanism)
        if curve.setting["metric"] != "latency":  # a card's cost is its operations; memory has none to be held to
            declared = None
        # growing more slowly is no disagreement: at short lengths what does not depend on n weighs most
        apart = declared is not None and fitted.low > declared + CLOSE
        found.append(
            {
                "mechanism": curve.mechanism,
                "params": curve.params,
                "backend": curve.backend,
                **{name: curve.setting[name] for name in FIXED},
                "exponent": fitted.exponent,
                "low": fitted.low,
                "high": fitted.high,
                "lengths": fitted.lengths,
                "declared": declared,
                "agrees": None if declared is None else not apart,
            }  # fmt: skip
        )
    first = "mechanism params backend pattern pass metric exponent low high lengths declared agrees".split()
    return pd.DataFrame(found, columns=first + [name for name in FIXED if name not in first])


def _declared(mechanism: str) -> float | None:
    if mechanism not in registry.names("mechanism"):
        return None
    try:
        return declared_exponent(registry.card("mechanism", mechanism).facts["cost"])
    except UsageError:  # a card that cannot be read declares nothing
        return None
