"""A leaderboard as a plain HTML table, for readers without scripts."""

from collections.abc import Iterator
from html import escape

from cab.analysis.leaderboard import COST_UNITS, Board, Line, Metric
from cab.report import notes
from cab.report.units import DisplayUnit, display_unit


def html_table(board: Board) -> Iterator[str]:
    """Yield the table: the headline with its interval, and the first metric of each unit of cost."""
    metrics = _shown(board)
    units = {
        metric.name: display_unit(
            metric.unit, [line.cells[metric.name].value for line in board.lines if metric.name in line.cells]
        )
        for metric in metrics
    }
    heads = ["rank", "mechanism", *(units[metric.name].header(metric.name) for metric in metrics)]
    yield (
        "<table><thead><tr>"
        + "".join(f"<th scope='col'>{escape(head)}</th>" for head in heads)
        + "</tr></thead><tbody>"
    )
    for line in board.lines:
        note = line.kind if line.kind != "ranked" else line.grade if line.grade != "native" else ""
        name = escape(f"{line.label} ({note})" if note else line.label)
        cells = "".join(f"<td>{escape(_text(line, metric, units[metric.name], board))}</td>" for metric in metrics)
        yield f"<tr><td>{notes.ranks(line)}</td><th scope='row'>{name}</th>{cells}</tr>"
    yield "</tbody></table>"


def _shown(board: Board) -> list[Metric]:
    """Return the headline, the other scores, and the first metric of each unit of cost."""
    first_of_unit = {metric.unit: metric for metric in reversed(board.metrics) if metric.unit in COST_UNITS}
    return [
        metric
        for metric in board.metrics
        if metric == board.headline or metric.is_score or metric in first_of_unit.values()
    ]


def _text(line: Line, metric: Metric, unit: DisplayUnit, board: Board) -> str:
    cell = line.cells.get(metric.name)
    if cell is None:
        return ""
    if cell.value is None:
        return cell.status
    interval = unit.interval(cell.low, cell.high)
    return f"{unit.text(cell.value)}{notes.marks(line, cell, metric == board.headline)} {interval}".strip()
