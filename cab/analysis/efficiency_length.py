"""The efficiency length: the length from which a mechanism beats softmax (CAB, arXiv 2210.07661, section 4.4).

Ours is bracketed by measured points: never the root of a fitted curve, never outside what was measured. CAB's own
procedure stands beside it, for comparison with its published table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import TYPE_CHECKING, Any

from cab.analysis.curves import Curve, Point, curves

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Efficiency:
    """Where a curve falls below softmax's for good.

    `answer`: `from` (then `length` lies in [low, high], both measured or interpolated between neighbours), `already`
    (at the shortest measured length, `high`), or `never` (up to the longest, `low`). The interval is where the
    intervals of the two costs let the crossing be: low is None where it may lie before the first point, high is None
    where after the last.
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
        return f"never up to {self.low:.0f}" + ("" if self.high is None else " (not certain)")


def efficiency_length(ours: Sequence[Point], softmax: Sequence[Point]) -> Efficiency | None:
    """Return where `ours` falls below `softmax` and stays there, or None where they share no length.

    Between the two measured lengths that bracket it the crossing is interpolated on the logs of ratio and length. The
    interval's ends are the crossings of the least and of the most favourable ratio that the intervals allow.
    """
    theirs = {point.n: point for point in softmax}
    pairs = [(p, theirs[p.n]) for p in sorted(ours, key=lambda p: p.n) if p.n in theirs]
    if not pairs:
        return None
    lengths = [p.n for p, _ in pairs]
    middle = _crossing(lengths, [_ratio(p.value, s.value) for p, s in pairs])
    first = _crossing(lengths, [_ratio(p.low, s.high) for p, s in pairs])  # as good as the intervals allow
    last = _crossing(lengths, [_ratio(p.high, s.low) for p, s in pairs])  # as bad
    if middle == 0:
        certain = last == 0
        return Efficiency("already", None, None if certain else float(lengths[0]), float(lengths[0]))
    if middle is None:
        certain = first is None
        return Efficiency("never", None, float(lengths[-1]), None if certain else float(lengths[-1]))
    return Efficiency("from", middle, None if first == 0 else first, last if last else None)


def _crossing(lengths: Sequence[int], logs: Sequence[float]) -> float | None:
    """Return the length from which every log ratio is below 0: 0 where all are, None where the last is not."""
    above = [i for i, value in enumerate(logs) if value >= 0]
    if not above:
        return 0
    i = above[-1]
    if i == len(lengths) - 1:
        return None
    share = logs[i] / (logs[i] - logs[i + 1])
    return exp(log(lengths[i]) + share * (log(lengths[i + 1]) - log(lengths[i])))


def _ratio(ours: float, theirs: float) -> float:
    if ours <= 0:  # nothing was allocated: better than anything that was
        return -1e9 if theirs > 0 else 0.0
    return log(ours / theirs) if theirs > 0 else 1e9


def efficiency_lengths(rows: "DataFrame", against: Sequence[str] = ("eager", "sdpa")) -> "DataFrame":
    """Return a table: each mechanism x pattern x pass x metric, against each softmax that was measured.

    Columns: mechanism, params, backend, pattern, pass, metric, against, answer, length, low, high, shortest, longest,
    text, and the settings that are equal on both curves.
    """
    import pandas as pd

    found = [line for line in _lines(list(curves(rows)), against)]
    columns = (
        "mechanism params backend pattern pass metric against answer length low high shortest longest text".split()
    )
    return pd.DataFrame(found, columns=None if found else columns)


def _lines(measured: list[Curve], against: Sequence[str]) -> Iterator[dict[str, Any]]:
    rivals: dict[tuple[Any, ...], list[Curve]] = {}
    for curve in measured:
        if curve.mechanism == "softmax":
            rivals.setdefault((curve.backend, *curve.setting.values()), []).append(curve)
    for curve in measured:
        if curve.mechanism in ("softmax", "none"):
            continue
        for backend in against:
            for rival in rivals.get((backend, *curve.setting.values()), []):
                found = efficiency_length(curve.points, rival.points)
                if found is None:
                    continue
                shared = sorted({p.n for p in curve.points} & {p.n for p in rival.points})
                yield {
                    "mechanism": curve.mechanism, "params": curve.params, "backend": curve.backend,
                    **{name: curve.setting[name] for name in ("pattern", "pass", "metric")},
                    "against": f"softmax {backend}", "answer": found.answer, "length": found.length,
                    "low": found.low, "high": found.high, "shortest": shared[0], "longest": shared[-1],
                    "text": str(found),
                    **{k: v for k, v in curve.setting.items() if k not in ("pattern", "pass", "metric", "unit")},
                }  # fmt: skip


def efficiency_length_cab(
    lengths: Sequence[int], vanilla: Sequence[float], efficient: Sequence[float], drop_first: bool
) -> float | None:
    """Return CAB's efficiency length: the larger root of a parabola through softmax's costs less a straight line.

    Softmax is fitted by a n^2 + b n + c, the other by d n + e, both by least squares; for times CAB leaves the first
    length out of the line's fit (`drop_first`). None where the two never meet. For comparison with CAB's published
    table only: a line is extrapolated below the first length, and nothing says how sure the root is.
    """
    import numpy as np

    a, b, c = np.polyfit(lengths, vanilla, 2)
    start = 1 if drop_first else 0
    d, e = np.polyfit(lengths[start:], efficient[start:], 1)
    inside = (b - d) ** 2 - 4 * a * (c - e)
    return float((-(b - d) + sqrt(inside)) / (2 * a)) if inside >= 0 and a else None
