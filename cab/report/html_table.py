"""A leaderboard as an HTML table. It can be sorted, and the headline's intervals are drawn on one axis."""

from collections.abc import Iterator
from html import escape
from math import log

from cab.analysis.leaderboard import LINE_KINDS, Board, Cell, Line
from cab.report import notes
from cab.report.units import DisplayUnit, display_unit

MAX_OPEN_REMARKS = 6  # more remarks than these are folded away


def html_table(board: Board) -> Iterator[str]:
    """Yield the table, and below it the remarks on its lines."""
    units = {
        metric.name: display_unit(
            metric.unit, [line.cells[metric.name].value for line in board.lines if metric.name in line.cells]
        )
        for metric in board.metrics
    }
    yield "<div class='scroll'><table><thead><tr>"
    yield _head("rank", "number") + _head("mechanism", "")
    for metric in board.metrics:
        yield _head(units[metric.name].header(metric.name), "number")
        if metric == board.headline:
            yield "<th scope='col'>95 % interval</th>"
    yield "</tr></thead>"
    axis = _IntervalAxis(board)
    for kind in LINE_KINDS:
        lines = [line for line in board.lines if line.kind == kind]
        if lines:
            yield "<tbody>"
            yield from (_line(line, board, units, axis) for line in lines)
            yield "</tbody>"
    yield "</table></div>"
    remarks = [(line.label, text) for line in board.lines if (text := _remarks(line))]
    if remarks:
        yield f"<details{' open' if len(remarks) <= MAX_OPEN_REMARKS else ''}><summary>remarks on {len(remarks)} of "
        yield f"{len(board.lines)} lines</summary><ul>"
        yield from (f"<li><b>{escape(label)}</b>: {escape(text)}</li>" for label, text in remarks)
        yield "</ul></details>"


def _head(text: str, css_class: str) -> str:
    return f"<th scope='col' class='{css_class}'><button type='button'>{escape(text)}</button></th>"


def _line(line: Line, board: Board, units: dict[str, DisplayUnit], axis: "_IntervalAxis") -> str:
    if line.kind != "ranked":
        note = line.kind
    else:
        note = line.grade if line.grade != "native" else ""
    chip = f" <span class='chip'>{escape(note)}</span>" if note else ""
    params = escape(", ".join(f"{name}={value}" for name, value in line.params.items()))
    cells = [
        f"<td class='number' data-value='{line.rank or ''}'>{line.rank or ''}</td>",
        f"<th scope='row' data-value='{escape(line.label)}' title='{params}'>{escape(line.label)}{chip}</th>",
    ]
    for metric in board.metrics:
        cell = line.cells.get(metric.name)
        is_headline = metric == board.headline
        cells.append(_cell(line, cell, units[metric.name], is_headline))
        if is_headline:
            cells.append(f"<td>{axis.drawing(cell) if line.kind != 'leaky' else ''}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _remarks(line: Line) -> str:
    """Return the reasons of a line's cells, each with the metrics that it is of, unless it is of all."""
    metrics_by_reason: dict[str, list[str]] = {}
    for name, cell in line.cells.items():
        for reason in [*cell.reasons, *(f"wide interval: {reason}" for reason in cell.stop_reasons)]:
            metrics_by_reason.setdefault(reason, []).append(name.replace("_", " "))
    return "; ".join(
        reason if len(names) == len(line.cells) else f"{', '.join(names)}: {reason}"
        for reason, names in metrics_by_reason.items()
    )


def _cell(line: Line, cell: Cell | None, unit: DisplayUnit, is_headline: bool) -> str:
    if cell is None:
        return "<td class='number' data-value=''></td>"
    if cell.value is None:
        status = "–" if cell.status in notes.EXPECTED_STATUSES else cell.status
        return f"<td class='number {cell.status}' data-value=''>{status}</td>"
    interval = f"<small>{unit.interval(cell.low, cell.high)}</small>" if cell.low is not None else ""
    marks = f"<span class='sign'>{notes.marks(line, cell, is_headline)}</span>"
    text = f"<span class='{cell.mark or 'plain'}'>{unit.text(cell.value)}</span>{marks}{interval}"
    return f"<td class='number' data-value='{cell.value!r}'>{text}</td>"


class _IntervalAxis:
    """The axis of a board's headline, in pixels. It is logarithmic where the values span a factor above 10."""

    width, height = 150, 14
    margin = 5

    def __init__(self, board: Board) -> None:
        cells = [
            cell
            for line in board.lines
            if line.kind != "leaky" and (cell := line.cells.get(board.headline.name)) and cell.value is not None
        ]
        ends = [end for cell in cells for end in cell.interval]
        self.low, self.high = min(ends, default=0.0), max(ends, default=1.0)
        self.logarithmic = self.low > 0 and self.high > 10 * self.low
        self.best_interval = next((cell.interval for cell in cells if cell.mark == "best"), None)

    def x(self, value: float) -> float:
        low, high, value = (log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        fraction = (value - low) / (high - low) if high > low else 0.5
        return round(self.margin + (self.width - 2 * self.margin) * fraction, 1)

    def drawing(self, cell: Cell | None) -> str:
        """Draw a value with its interval, above the interval of the best value: the tied ones overlap it."""
        if cell is None or cell.value is None:
            return ""
        band = ""
        if self.best_interval:
            left, right = map(self.x, self.best_interval)
            band = f"<rect class='band' x='{left}' width='{max(right - left, 1):.1f}' y='0' height='{self.height}'/>"
        left, right = map(self.x, cell.interval)
        y = self.height / 2
        interval = f"<line x1='{left}' x2='{right}' y1='{y}' y2='{y}'/>"
        value = f"<circle cx='{self.x(cell.value)}' cy='{y}' r='3'/>"
        size = f"width='{self.width}' height='{self.height}'"
        return f"<svg class='whisker' aria-hidden='true' {size}>{band}{interval}{value}</svg>"
