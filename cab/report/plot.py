"""The data of the page's plot, as the page's script reads them."""

from collections.abc import Sequence
from math import log10
from typing import Any

from cab.analysis.cost_series import PlotPoint, PlotView, plot_views, source_length
from cab.analysis.leaderboard import Board
from cab.analysis.settings import settings_of
from cab.report import notes
from cab.report.units import DisplayUnit, display_unit


def plot_data(boards: Sequence[Board], name_machines: bool) -> dict[str, Any]:
    """Return the views as JSON-able data; `name_machines` puts the machine into each view's name."""
    differing = notes.settings_that_differ(boards)
    return {"views": [_view(view, name_machines, differing) for view in plot_views(boards)]}


def _view(view: PlotView, name_machines: bool, differing: dict[str, str]) -> dict[str, Any]:
    first = view.boards[0]
    m = source_length(first)
    words = [
        first.question["task"],
        notes.conditions(first),
        differing[settings_of(first)],
        "" if m is None else f"m = {m:,}",
        first.machine if name_machines else "",
    ]
    metrics: list[dict[str, Any]] = []
    series: list[dict[str, Any]] = []
    for metric, lines in view.series.items():
        unit = display_unit(metric.unit, [point.value for line in lines for point in line.points])
        points = [[_point(point, unit) for point in line.points] for line in lines]
        metrics.append(
            {
                "name": metric.name,
                "title": unit.header(metric.name),
                "unit": unit.name,
                "range": _axis_range([point for of_line in points for point in of_line]),
            }
        )
        series += [
            {
                "metric": metric.name,
                "label": line.label,
                "order": line.label_index,
                "pattern": line.pattern,
                "kind": line.kind,
                "points": of_line,
            }
            for line, of_line in zip(lines, points, strict=True)
        ]
    return {
        "name": " · ".join(word for word in words if word),
        "patterns": view.patterns,
        "titles": [notes.pattern_title(pattern) for pattern in view.patterns],
        "lengths": view.lengths,
        "metrics": metrics,
        "series": sorted(series, key=lambda line: line["order"]),
    }


def _point(point: PlotPoint, unit: DisplayUnit) -> list[Any]:
    """Return n, the value and both ends of its interval in `unit`, m, the number of processes, whether it converged."""
    value, low, high = (
        None if number is None else float(f"{number / unit.factor:.6g}")
        for number in (point.value, point.low, point.high)
    )
    return [point.n, value, low, high, point.m, point.processes, point.converged]


def _axis_range(points: Sequence[list[Any]]) -> list[float]:
    """Return the ends of a logarithmic axis that holds every value and interval, with a margin."""
    numbers = [number for point in points for number in point[1:4] if number is not None and number > 0]
    low, high = log10(min(numbers)), log10(max(numbers))
    margin = max(0.05 * (high - low), 0.02)
    return [round(low - margin, 4), round(high + margin, 4)]
