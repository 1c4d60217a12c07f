"""What the page's plot draws: a view for each question, with a line for each mechanism and pattern over the lengths."""

from collections.abc import Sequence
from math import log10
from typing import Any

from cab.analysis.leaderboard import Board, Cell, Metric
from cab.analysis.questions import QUESTION
from cab.analysis.ranking import PATTERNS
from cab.analysis.units import scale
from cab.report import notes


def plot_data(boards: Sequence[Board], machines: bool) -> dict[str, Any]:
    """Return the views as JSON-able data; `machines` says whether their names must tell the machine."""
    views: dict[tuple[Any, ...], list[Board]] = {}
    for board in boards:
        fixed = tuple(board.question[name] for name in QUESTION if name not in ("pattern", "n", "m"))
        views.setdefault((*fixed, board.machine, _keys(board)), []).append(board)
    differing = notes.settings_that_differ(boards)
    # the same colour and sign for a mechanism in every view; softmax, which all are read against, is the first
    labels = sorted({line.label for board in boards for line in board.lines}, key=lambda x: (x != "softmax", x))
    places = {label: place for place, label in enumerate(labels)}
    found = [_view(group, places, machines, differing) for group in views.values()]
    # a view of more lengths says more
    shown = sorted((view for view in found if view["metrics"]), key=lambda view: -len(view["lengths"]))
    return {"views": shown}


def _keys(board: Board) -> str:
    n, m = board.question["n"], board.question["m"]
    return "" if n == m else f"m = {m:,}"


def _view(group: Sequence[Board], places: dict[str, int], machines: bool, differing: dict[str, str]) -> dict[str, Any]:
    first = group[0]
    words = [first.question["task"], notes.conditions(first), differing[first.question["settings"] or "{}"]]
    words += [_keys(first), first.machine if machines else ""]
    patterns = sorted({b.question["pattern"] for b in group}, key=lambda p: PATTERNS.index(p) if p in PATTERNS else 9)
    metrics, series = [], []
    for metric in notes.column_metrics(group):
        lines = _series(metric, group, places)
        points = [point for line in lines for point in line["points"]]
        if points:
            unit = scale(metric.unit, [point[1] for point in points])
            for line in lines:
                line["points"] = [_scaled(point, unit.factor) for point in line["points"]]
            shown = {"name": metric.name, "title": unit.header(metric.name), "unit": unit.unit}
            metrics.append(shown | {"range": _range([point for line in lines for point in line["points"]])})
            series += lines
    # the plot opens with latency, where there is any
    metrics.sort(key=lambda each: each["name"] != "latency")
    return {
        "name": " · ".join(word for word in words if word),
        "patterns": patterns,
        "titles": [f"{notes.TITLES[p]} ({p})" for p in patterns],
        "lengths": sorted({board.question["n"] for board in group}),
        "metrics": metrics,
        "series": sorted(series, key=lambda line: line["place"]),
    }


def _series(metric: Metric, group: Sequence[Board], places: dict[str, int]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for board in sorted(group, key=lambda b: b.question["n"]):
        for line in board.lines:
            cell = line.cells.get(metric.name)
            if cell is None or cell.value is None or cell.value <= 0:  # nothing for a logarithm
                continue
            own = line.label, board.question["pattern"], str(line.params)
            about = {"metric": metric.name, "label": line.label, "pattern": own[1], "kind": line.kind}
            made = found.setdefault(own, {**about, "place": places[line.label], "points": []})
            made["points"].append(_point(board, cell))
    return list(found.values())


def _point(board: Board, cell: Cell) -> list[Any]:
    """Return n, value, both ends of the interval, m, how many processes, and whether it converged."""
    n, m = board.question["n"], board.question["m"]
    return [n, cell.value, cell.low, cell.high, m, cell.processes, not cell.stopped]


def _range(points: Sequence[list[Any]]) -> list[float]:
    """Return the ends of a logarithmic axis that holds every interval, with a margin."""
    ends = [x for point in points for x in point[1:4] if x is not None and x > 0]
    low, high = log10(min(ends)), log10(max(ends))
    margin = max(0.05 * (high - low), 0.02)
    return [round(low - margin, 4), round(high + margin, 4)]


def _scaled(point: list[Any], factor: float) -> list[Any]:
    n, *numbers = point[:4]
    return [n, *(None if x is None else float(f"{x / factor:.6g}") for x in numbers), *point[4:]]
