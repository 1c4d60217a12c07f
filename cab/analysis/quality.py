"""How well costs were measured: the half-widths of their intervals, how many converged, and why others did not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any

from cab.analysis.leaderboard import COST_UNITS

if TYPE_CHECKING:
    from pandas import DataFrame

WORST = 25  # rows
QUANTILES = (0.1, 0.5, 0.9)
_OWN_HALF_WIDTH = re.compile(r"±[\d.]+ ?% exceeds")
_WORST_COLUMNS = ("mechanism", "task", "pattern", "pass", "batch", "n", "metric", "case_id", "stop_reason")


@dataclass(frozen=True)
class Quality:
    """A metric at one length, over every case of a store. Half-widths are shares of the values."""

    metric: str
    n: int
    values: int
    without_interval: int
    converged: int
    tenth: float | None  # of the half-widths; None where no value has an interval
    median: float | None
    ninetieth: float | None
    worst: float | None


def measured_costs(rows: "DataFrame") -> "DataFrame":
    """Return the costs that have, or should have, an interval, with their `half_width` as a share of the value.

    Counts are exact, and the interval of a score is of its test examples: neither says how well was measured.
    """
    import numpy as np

    timed = rows["converged"].notna() | rows["ci_low"].notna()
    costs = rows[timed & (rows["status"] == "ok") & rows["step"].isna() & rows["unit"].isin(COST_UNITS)]
    values, lows, highs = (costs[name].to_numpy("float64", na_value=nan) for name in ("value", "ci_low", "ci_high"))
    values = np.where(np.isinf(values), nan, values)
    sizes = np.where(values == 0, nan, np.abs(values))
    half_widths = np.maximum(values - lows, highs - values) / sizes
    return costs.assign(half_width=np.where(np.isfinite(half_widths), half_widths, nan))


def quality(costs: "DataFrame") -> list[Quality]:
    """Return the quality of each metric at each length; `costs` are as `measured_costs` returns them."""
    qualities = []
    for _, group in costs.groupby(["metric", "n"], sort=True):
        metric, n = group["metric"].iloc[0], group["n"].iloc[0]
        widths = group["half_width"].dropna()
        tenth, median, ninetieth = (float(widths.quantile(q)) if len(widths) else None for q in QUANTILES)
        converged, count = int(group["converged"].fillna(False).sum()), len(group)
        worst = float(widths.max()) if len(widths) else None
        without = count - len(widths)
        qualities.append(Quality(str(metric), int(n), count, without, converged, tenth, median, ninetieth, worst))
    return qualities


def stop_reasons(costs: "DataFrame") -> list[tuple[str, int]]:
    """Return why measurements ended before they converged -> how many, the most frequent first."""
    stopped = costs[(costs["converged"] == False).fillna(False)]  # noqa: E712, a column
    texts = stopped["stop_reason"].fillna("").map(lambda text: _OWN_HALF_WIDTH.sub("the half-width exceeds", text))
    return [(str(text) or "no reason was kept", int(count)) for text, count in texts.value_counts().items()]


def worst_rows(costs: "DataFrame") -> Iterator[dict[str, Any]]:
    """Yield the WORST rows by half-width, with the columns that tell them apart."""
    for row in costs.dropna(subset=["half_width"]).nlargest(WORST, "half_width").to_dict("records"):
        yield {name: row[name] for name in _WORST_COLUMNS} | {"half_width": float(row["half_width"])}
