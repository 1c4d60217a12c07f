"""Cost curves: one cost of one mechanism by sequence length, with everything else equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cab.analysis.seeds import mean_over_seeds

if TYPE_CHECKING:
    from pandas import DataFrame

COST_METRICS = ("latency", "peak_allocated", "peak_resident")
# A value without an interval, of one process, gets this wide one: value / factor to value * factor.
# No two costs of one question differ by as much, so that such a value decides nothing.
UNKNOWN_INTERVAL_FACTOR = 1e6
# the columns that are equal along a curve; m follows n. A cost is the mean over the seeds.
SETTING_COLUMNS = (
    "pattern", "task", "level", "pass", "batch", "heads", "dim", "dtype", "device", "scale", "settings",
    "metric", "unit", "environment_id",
)  # fmt: skip
_CURVE_COLUMNS = ("mechanism", "params", "backend", *SETTING_COLUMNS)
_COST_COLUMNS = ("n", "value", "converged", "ci_low", "ci_high")


@dataclass(frozen=True)
class CostAtLength:
    """A cost at length n with its 95 % interval. An exact cost has an interval of width zero."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One cost of one mechanism, by length."""

    mechanism: str
    params: str  # canonical JSON
    backend: str
    setting: dict[str, Any]  # SETTING_COLUMNS -> value
    costs: tuple[CostAtLength, ...]  # in the order of n


def curves(rows: "DataFrame") -> Iterator[Curve]:
    """Yield the curves in a table of rows. Only rows with status `ok` and n = m count."""
    selected = rows[
        (rows["status"] == "ok") & rows["metric"].isin(COST_METRICS) & rows["step"].isna() & (rows["n"] == rows["m"])
    ][[*_CURVE_COLUMNS, *_COST_COLUMNS]]
    costs_by_curve: dict[tuple[Any, ...], dict[int, list[CostAtLength]]] = {}
    plain = selected.astype(object).where(selected.notna(), None)
    names = [str(name) for name in plain]
    width = len(_CURVE_COLUMNS)
    for values in plain.itertuples(index=False, name=None):
        cost = _cost(dict(zip(names[width:], values[width:], strict=True)))
        costs_by_curve.setdefault(values[:width], {}).setdefault(cost.n, []).append(cost)
    for (mechanism, params, backend, *setting_values), costs in costs_by_curve.items():
        setting = dict(zip(SETTING_COLUMNS, setting_values, strict=True))
        in_order = tuple(_over_seeds(costs[n]) for n in sorted(costs))
        yield Curve(str(mechanism), str(params), str(backend), setting, in_order)


def _over_seeds(costs: list[CostAtLength]) -> CostAtLength:
    """Return the mean of the seeds' costs at one length; of one seed its cost."""
    if len(costs) == 1:
        return costs[0]
    value, low, high = mean_over_seeds([(cost.value, cost.low, cost.high) for cost in costs])
    return CostAtLength(costs[0].n, value, value if low is None else low, value if high is None else high)


def _cost(row: dict[str, Any]) -> CostAtLength:
    value, low, high = float(row["value"]), row["ci_low"], row["ci_high"]
    # `converged` is None for a count, which is exact, and False for a timing of one process, whose error is unknown
    factor = 1.0 if row["converged"] is None or row["converged"] else UNKNOWN_INTERVAL_FACTOR
    return CostAtLength(
        int(row["n"]),
        value,
        value / factor if low is None else float(low),
        value * factor if high is None else float(high),
    )
