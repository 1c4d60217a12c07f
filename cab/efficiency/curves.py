"""Measured curves: one cost of one mechanism over the lengths, everything else equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("latency", "peak_allocated", "peak_resident")
ANYWHERE = 1e6  # a factor by which no two measured costs of one question differ
# what must be equal for two lengths to lie on one curve; m follows n
FIXED = "pattern task level pass batch heads dim dtype device seed scale settings metric unit environment_id".split()


@dataclass(frozen=True)
class Point:
    """A cost at a length, with its 95 % interval (the value itself where it is exact)."""

    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One metric of one mechanism, by length."""

    mechanism: str
    params: str
    backend: str
    setting: dict[str, Any]  # everything that is equal along the curve
    points: tuple[Point, ...]


def curves(rows: "DataFrame") -> Iterator[Curve]:
    """Yield the curves of a tidy table: what is `ok`, at lengths where m = n, at least one point each."""
    good = rows[
        (rows["status"] == "ok") & rows["metric"].isin(METRICS) & rows["step"].isna() & (rows["n"] == rows["m"])
    ]
    for key, group in good.groupby(["mechanism", "params", "backend", *FIXED], dropna=False, sort=False):
        points = []
        for row in group.sort_values("n").to_dict("records"):
            value = float(row["value"])
            # exact where nothing can converge; what has no interval yet, of one process, may lie anywhere
            exact = _missing(row["converged"]) or bool(row["converged"])
            low, high = (
                float(row[end]) if not _missing(row[end]) else value if exact else value * unknown
                for end, unknown in (("ci_low", 1 / ANYWHERE), ("ci_high", ANYWHERE))
            )
            points.append(Point(int(row["n"]), value, low, high))
        mechanism, params, backend, *fixed = key
        setting = {name: None if _missing(v) else v for name, v in zip(FIXED, fixed, strict=True)}
        yield Curve(str(mechanism), str(params), str(backend), setting, tuple(points))


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))
