"""The lines of the plot of cost against length: one for each metric, mechanism and pattern."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cab.analysis.leaderboard import Board, Metric, metrics_of
from cab.analysis.questions import QUESTION
from cab.analysis.ranking import pattern_order


@dataclass(frozen=True)
class PlotPoint:
    """One value of a series. `low` and `high` are None where the value has no interval."""

    n: int
    m: int
    value: float
    low: float | None
    high: float | None
    processes: int
    converged: bool


@dataclass(frozen=True)
class Series:
    """One metric of one mechanism in one pattern, by length."""

    label: str
    label_index: int  # the same in every view, so that a mechanism keeps its colour
    pattern: str
    kind: str  # of the line: ranked, floor or leaky
    points: list[PlotPoint]


@dataclass(frozen=True)
class PlotView:
    """The boards that differ in nothing but pattern and lengths, and the series drawn from them."""

    boards: list[Board]
    patterns: list[str]
    lengths: list[int]
    series: dict[Metric, list[Series]]  # only metrics that have a value above 0; latency first


def plot_views(boards: Sequence[Board]) -> list[PlotView]:
    """Return the views, the one with most lengths first. Self and cross with n = m share a view."""
    groups: dict[tuple[Any, ...], list[Board]] = {}
    for board in boards:
        question = board.question
        fixed = tuple(question[name] for name in QUESTION if name not in ("pattern", "n", "m"))
        groups.setdefault((*fixed, board.machine, source_length(board)), []).append(board)
    # softmax, with which all are compared, has the first colour
    labels = sorted({line.label for board in boards for line in board.lines}, key=lambda x: (x != "softmax", x))
    label_indices = {label: index for index, label in enumerate(labels)}
    views = [_view(group, label_indices) for group in groups.values()]
    return sorted((view for view in views if view.series), key=lambda view: -len(view.lengths))


def source_length(board: Board) -> int | None:
    """Return m where it differs from n."""
    n, m = board.question["n"], board.question["m"]
    return None if n == m else int(m)


def _view(boards: list[Board], label_indices: dict[str, int]) -> PlotView:
    series = {metric: _series(metric, boards, label_indices) for metric in metrics_of(boards)}
    metrics = sorted((metric for metric in series if series[metric]), key=lambda metric: metric.name != "latency")
    return PlotView(
        boards,
        patterns=sorted({board.question["pattern"] for board in boards}, key=pattern_order),
        lengths=sorted({board.question["n"] for board in boards}),
        series={metric: series[metric] for metric in metrics},
    )


def _series(metric: Metric, boards: Sequence[Board], label_indices: dict[str, int]) -> list[Series]:
    by_line: dict[tuple[str, str, str], Series] = {}
    for board in sorted(boards, key=lambda board: board.question["n"]):
        pattern = board.question["pattern"]
        for line in board.lines:
            cell = line.cells.get(metric.name)
            if cell is None or cell.value is None or cell.value <= 0:  # the axes are logarithmic
                continue
            series = by_line.setdefault(
                (line.label, pattern, str(line.params)),
                Series(line.label, label_indices[line.label], pattern, line.kind, []),
            )
            n, m, converged = board.question["n"], board.question["m"], not cell.stop_reasons
            series.points.append(PlotPoint(n, m, cell.value, cell.low, cell.high, cell.processes, converged))
    return list(by_line.values())
