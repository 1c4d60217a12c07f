"""Narrows the rows of a store: `pattern=CC seq_len=2048`, and limits such as `peak_allocated=64MiB`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from cab.analysis.leaderboard import Board, Line
from cab.errors import UsageError, unknown

if TYPE_CHECKING:
    from pandas import DataFrame

# key of the command line -> column, where the two differ
_COLUMNS_OF_KEYS = {"seq_len": "n", "source_len": "m"}
FILTERS = (
    "mechanism", "pattern", "task", "seq_len", "source_len", "level", "pass", "batch", "heads", "dim", "dtype",
    "device", "backend", "seed", "scale", "grade", "protocol", "data_source", "metric",
)  # fmt: skip
# unit of a limit -> (unit of the rows, factor)
_UNITS = {
    "": ("", 1.0),
    "B": ("bytes", 1.0), "kB": ("bytes", 1e3), "MB": ("bytes", 1e6), "GB": ("bytes", 1e9),
    "KiB": ("bytes", 2.0**10), "MiB": ("bytes", 2.0**20), "GiB": ("bytes", 2.0**30),
    "s": ("seconds", 1.0), "ms": ("seconds", 1e-3), "us": ("seconds", 1e-6), "µs": ("seconds", 1e-6),
    "FLOP": ("FLOP", 1.0), "MFLOP": ("FLOP", 1e6), "GFLOP": ("FLOP", 1e9), "TFLOP": ("FLOP", 1e12),
    "%": ("fraction", 1e-2), "J": ("joules", 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """The greatest value that a metric may have, in the unit of the rows."""

    metric: str
    value: float
    text: str  # as it was given

    def admits(self, line: Line) -> bool | None:
        """Whether a line's value is within the limit; None where it has no value."""
        cell = line.cells.get(self.metric)
        return None if cell is None or cell.value is None else cell.value <= self.value


def selected(rows: "DataFrame", filters: Mapping[str, Sequence[str]]) -> "DataFrame":
    """Return the rows whose columns have one of the values of each filter; `UsageError` where no row has."""
    for key, values in filters.items():
        if key not in FILTERS:
            raise unknown("filter", key, FILTERS)
        column = rows[_COLUMNS_OF_KEYS.get(key, key)].astype("string")
        mask = column.isin([str(value) for value in values]).fillna(False)
        if not mask.any():
            present = sorted(column.dropna().unique(), key=lambda text: (len(text), text))
            raise UsageError(f"no result has {key}={','.join(map(str, values))}; the results have {', '.join(present)}")
        if key == "mechanism":  # what needs no mechanism stands among the rows under its own name
            mask |= (rows["grade"] == "floor").fillna(False)
        rows = rows[mask]
    return rows


def filters_of(words: Sequence[str]) -> dict[str, list[str]]:
    """Read `KEY=VALUE` and `KEY=A,B`."""
    filters: dict[str, list[str]] = {}
    for word in words:
        key, equals, values = word.partition("=")
        if not equals or not values:
            raise UsageError(f"'{word}' is no filter; write KEY=VALUE, as in pattern=CC seq_len=2048")
        if key in filters:
            raise UsageError(f"{key} is given twice: write {key}={','.join(filters[key])},{values}")
        filters[key] = values.split(",")
    return filters


def limits_of(texts: Sequence[str], units: Mapping[str, str]) -> list[Limit]:
    """Read limits such as `peak_allocated=64MiB` and `latency=10ms`; `units` gives the unit of each metric."""
    limits = []
    for text in texts:
        metric, _, amount = text.partition("=")
        if metric not in units:
            raise unknown("metric", metric, units)
        parts = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-zA-Zµ%]*)\s*", amount)
        try:
            number, unit = (float(parts[1]), parts[2]) if parts else (None, "")
        except ValueError:
            number, unit = None, ""
        if number is None or not isfinite(number) or unit not in _UNITS:
            raise UsageError(f"--max {text}: write METRIC=NUMBER with a unit, one of {', '.join(_UNITS)[2:]}")
        of_rows, factor = _UNITS[unit]
        accepted = [name for name, (measured, _) in _UNITS.items() if measured == units[metric] and measured]
        if not unit and accepted and units[metric] != "fraction":
            examples = ", ".join(f"{metric}={amount}{each}" for each in accepted)
            raise UsageError(f"--max {text}: of which unit? Accepted: {examples}")
        if of_rows not in ("", units[metric]):
            raise UsageError(f"--max {text}: {metric} is measured in {units[metric]}, not in {of_rows}")
        limits.append(Limit(metric, number * factor, amount))
    return limits


def metric_units(rows: "DataFrame") -> dict[str, str]:
    """Return metric -> unit."""
    pairs = rows[["metric", "unit"]].drop_duplicates().fillna("")
    return dict(zip(pairs["metric"], pairs["unit"], strict=True))


def within(board: Board, limits: Sequence[Limit]) -> list[Line]:
    """Return the lines whose values are known to be within every limit; controls stay."""
    return [line for line in board.lines if line.kind == "control" or all(limit.admits(line) for limit in limits)]
