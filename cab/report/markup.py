"""A leaderboard as an HTML table: sortable, and with the headline's intervals drawn to one scale."""

from collections.abc import Iterator
from html import escape
from math import log

from cab.analysis.leaderboard import Board, Cell, Line
from cab.analysis.units import Scale, scale
from cab.report import notes

OPEN = 6  # remarks that are shown without being asked for


def table(board: Board) -> Iterator[str]:
    """Yield the table, and below it what is said about single values."""
    scales = {
        metric.name: scale(
            metric.unit, [line.cells[metric.name].value for line in board.lines if metric.name in line.cells]
        )
        for metric in board.metrics
    }
    yield "<div class='scroll'><table><thead><tr>"
    yield _head("rank", "number") + _head("mechanism", "")
    for metric in board.metrics:
        yield _head(scales[metric.name].header(metric.name), "number")
        yield "<th scope='col'>95 % interval</th>" if metric == board.headline else ""
    yield "</tr></thead>"
    axis = _Axis(board)
    for kind in ("ranked", "floor", "leaky"):
        lines = [line for line in board.lines if line.kind == kind]
        if lines:
            yield "<tbody>"
            yield from (_line(line, board, scales, axis) for line in lines)
            yield "</tbody>"
    yield "</table></div>"
    remarks = [(line.label, text) for line in board.lines if (text := _remarks(line))]
    if remarks:
        yield f"<details{' open' if len(remarks) <= OPEN else ''}><summary>remarks on {len(remarks)} of "
        yield f"{len(board.lines)} lines</summary><ul>"
        yield from (f"<li><b>{escape(label)}</b>: {escape(text)}</li>" for label, text in remarks)
        yield "</ul></details>"


def _head(text: str, kind: str) -> str:
    return f"<th scope='col' class='{kind}'><button type='button'>{escape(text)}</button></th>"


def _line(line: Line, board: Board, scales: dict[str, Scale], axis: "_Axis") -> str:
    about = line.kind if line.kind != "ranked" else line.grade if line.grade != "native" else ""
    chip = f" <span class='chip'>{escape(about)}</span>" if about else ""
    params = escape(", ".join(f"{k}={v}" for k, v in line.params.items()))
    parts = [f"<td class='number' data-value='{line.rank or ''}'>{line.rank or ''}</td>"]
    parts += [f"<th scope='row' data-value='{escape(line.label)}' title='{params}'>{escape(line.label)}{chip}</th>"]
    for metric in board.metrics:
        cell = line.cells.get(metric.name)
        headline = metric == board.headline
        parts.append(_cell(line, cell, scales[metric.name], headline))
        parts += [f"<td>{axis.whisker(cell) if line.kind != 'leaky' else ''}</td>"] if headline else []
    return f"<tr>{''.join(parts)}</tr>"


def _remarks(line: Line) -> str:
    said: dict[str, list[str]] = {}
    for name, cell in line.cells.items():
        for reason in [*cell.reasons, *(f"not converged: {why}" for why in cell.stopped)]:
            said.setdefault(reason, []).append(name.replace("_", " "))
    everything = len(line.cells)
    return "; ".join(
        reason if len(names) == everything else f"{', '.join(names)}: {reason}" for reason, names in said.items()
    )


def _cell(line: Line, cell: Cell | None, unit: Scale, headline: bool) -> str:
    if cell is None:
        return "<td class='number' data-value=''></td>"
    if cell.value is None:
        word = "–" if cell.status in notes.QUIET else cell.status
        return f"<td class='number {cell.status}' data-value=''>{word}</td>"
    interval = f"<small>{unit.interval(cell.low, cell.high)}</small>" if cell.low is not None else ""
    signs = f"<span class='sign'>{notes.marks(line, cell, headline)}</span>"
    text = f"<span class='{cell.mark or 'plain'}'>{unit.text(cell.value)}</span>{signs}{interval}"
    return f"<td class='number' data-value='{cell.value!r}'>{text}</td>"


class _Axis:
    """One scale for the intervals of a board's headline; logarithmic where the values differ tenfold."""

    width, height = 150, 14

    def __init__(self, board: Board) -> None:
        cells = [line.cells.get(board.headline.name) for line in board.lines if line.kind != "leaky"]
        ends = [end for cell in cells if cell is not None and cell.value is not None for end in cell.interval]
        self.low, self.high = min(ends, default=0.0), max(ends, default=1.0)
        self.logarithmic = self.low > 0 and self.high > 10 * self.low
        best = [cell for cell in cells if cell is not None and cell.mark == "best"]
        self.band = best[0].interval if best else None

    def place(self, value: float) -> float:
        low, high, value = (log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return round(5 + (self.width - 10) * ((value - low) / (high - low) if high > low else 0.5), 1)

    def whisker(self, cell: Cell | None) -> str:
        """Draw a value with its interval, over the best's: what touches that cannot be told from it."""
        if cell is None or cell.value is None:
            return ""
        left, right = map(self.place, cell.interval)
        band = ""
        if self.band:
            start, stop = map(self.place, self.band)
            band = f"<rect class='band' x='{start}' width='{max(stop - start, 1):.1f}' y='0' height='{self.height}'/>"
        y = self.height / 2
        mark = (
            f"<line x1='{left}' x2='{right}' y1='{y}' y2='{y}'/><circle cx='{self.place(cell.value)}' cy='{y}' r='3'/>"
        )
        size = f"width='{self.width}' height='{self.height}'"
        return f"<svg class='whisker' aria-hidden='true' {size}>{band}{mark}</svg>"
