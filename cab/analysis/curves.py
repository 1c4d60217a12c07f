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
_CURVE = ("mechanism", "params", "backend", *FIXED)
_POINT = ("n", "value", "converged", "ci_low", "ci_high")


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
    ][[*_CURVE, *_POINT]]
    found: dict[tuple[Any, ...], list[Point]] = {}
    for row in good.astype(object).where(good.notna(), None).to_dict("records"):
        found.setdefault(tuple(row[name] for name in _CURVE), []).append(_point(row))
    for (mechanism, params, backend, *fixed), points in found.items():
        setting = dict(zip(FIXED, fixed, strict=True))
        in_order = tuple(sorted(points, key=lambda point: point.n))
        yield Curve(str(mechanism), str(params), str(backend), setting, in_order)


def _point(row: dict[Any, Any]) -> Point:
    value = float(row["value"])
    # exact where nothing can converge; what has no interval yet, of one process, may lie anywhere
    exact = row["converged"] is None or bool(row["converged"])
    low, high = (
        float(row[end]) if row[end] is not None else value if exact else value * unknown
        for end, unknown in (("ci_low", 1 / ANYWHERE), ("ci_high", ANYWHERE))
    )
    return Point(int(row["n"]), value, low, high)
