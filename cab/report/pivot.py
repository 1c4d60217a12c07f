"""One metric as a table of two keys: mechanisms by lengths, tasks by patterns, or any other two.

Each cell is one line's value of one board. Where two values fall into one cell, what tells them apart must be named:
nothing is averaged but seeds, which a line has averaged already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.leaderboard import Board, Cell, Line, Metric, metrics_of
from cab.analysis.questions import QUESTION
from cab.analysis.ranking import labelled_together
from cab.errors import UsageError, unknown
from cab.report import notes
from cab.report.export import csv_of
from cab.report.formats import write_table
from cab.report.units import DisplayUnit, display_unit

if TYPE_CHECKING:
    from rich.console import Console

KEYS = ("mechanism", "machine", *QUESTION)


@dataclass(frozen=True)
class Pivot:
    """A metric of some boards by two of KEYS."""

    metric: Metric
    row_key: str
    column_key: str
    rows: list[str]
    columns: list[str]
    cells: dict[tuple[str, str], Cell]
    same: dict[str, str]  # the other keys that have one value in all cells

    @property
    def unit(self) -> DisplayUnit:
        """The unit of all cells."""
        return display_unit(self.metric.unit, [cell.value for cell in self.cells.values()])

    def texts(self) -> list[list[str]]:
        """Return the rows as people read them: the value with its interval's longer arm, or how it ended."""
        return [[row, *(self._text(row, column) for column in self.columns)] for row in self.rows]

    def _text(self, row: str, column: str) -> str:
        cell = self.cells.get((row, column))
        if cell is None:
            return ""
        if cell.value is None:
            return "-" if cell.status in notes.EXPECTED_STATUSES else cell.status
        arm_of = self.unit.half_width if self.metric.by_difference else self.unit.relative_half_width
        return f"{self.unit.text(cell.value)} {arm_of(cell.value, cell.low, cell.high)}".strip()


def pivot(boards: Sequence[Board], row_key: str, column_key: str, metric_name: str) -> Pivot:
    """Arrange a metric by two keys.

    `UsageError` for an unknown key or metric, for one key given twice, and where several values fall into one cell.
    """
    for key in (row_key, column_key):
        if key not in KEYS:
            raise unknown("key of a table", key, KEYS)
    if row_key == column_key:
        raise UsageError(f"--rows and --columns are both {row_key}: give two keys")
    metrics = {metric.name: metric for metric in metrics_of(boards)}
    if metric_name not in metrics:
        raise unknown("metric", metric_name, metrics)
    entries: dict[tuple[str, str], list[tuple[Board, Line]]] = {}
    for board in labelled_together(boards):
        for line in board.lines:
            if metric_name in line.cells:
                place = (_value(board, line, row_key), _value(board, line, column_key))
                entries.setdefault(place, []).append((board, line))
    for several in entries.values():
        if len(several) > 1:
            raise UsageError(_ambiguous(several, metric_name))
    everything = [entry for several in entries.values() for entry in several]
    others = [key for key in KEYS if key not in (row_key, column_key)]
    values = {key: {_value(*entry, key) for entry in everything} for key in others}
    return Pivot(
        metrics[metric_name],
        row_key,
        column_key,
        _in_order({row for row, _ in entries}, [_value(*entry, row_key) for entry in everything]),
        _in_order({column for _, column in entries}, [_value(*entry, column_key) for entry in everything]),
        {place: several[0][1].cells[metric_name] for place, several in entries.items()},
        {key: min(each) for key, each in values.items() if len(each) == 1},
    )


def print_pivot(table: Pivot, console: "Console", full: bool = False) -> None:
    """Print the table in the terminal, and above it what all cells share; unless `full`, at most 40 lines."""
    shown = ("task", "pattern", "level", "pass", "scale", "n", "batch", "heads", "dim", "dtype", "device", "machine")
    same = " · ".join(f"{key} {table.same[key]}" for key in shown if key in table.same)
    above = [Text(table.unit.header(table.metric.name), style="bold"), Text(same, style="dim")]
    rows = table.texts()
    room = notes.MOST_LINES - 1 - sum(len(console.render_lines(text)) for text in above)  # below the grid's head
    shown_rows = rows if full or len(rows) <= room else rows[: room - 1]
    for text in above:
        console.print(text)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column(table.row_key)
    for column in table.columns:
        grid.add_column(f"{table.column_key} {column}", justify="right", no_wrap=True)
    for row in shown_rows:
        grid.add_row(*map(Text, row))
    console.print(grid)
    if len(shown_rows) < len(rows):
        console.print(Text(f"… and {len(rows) - len(shown_rows)} more rows: --full", style="dim"))


def written_pivot(table: Pivot, form: str) -> bytes:
    """Return the table as `md`, `tex` or `html`, or as csv, json or parquet in full precision and the rows' unit."""
    if form in ("md", "tex", "html"):
        unit = table.unit.header(table.metric.name)
        heads = [f"{unit}, {table.row_key}", *(f"{table.column_key} {column}" for column in table.columns)]
        return write_table(form, heads, table.texts()).encode()
    import pandas as pd

    frame = pd.DataFrame(
        [
            {table.row_key: row, table.column_key: column, table.metric.name: cell.value,
             "low": cell.low, "high": cell.high, "status": cell.status}
            for (row, column), cell in table.cells.items()
        ]
    )  # fmt: skip
    if form == "parquet":
        buffer = BytesIO()
        frame.to_parquet(buffer, index=False)
        return buffer.getvalue()
    if form == "json":
        return (frame.to_json(orient="records", indent=1) + "\n").encode()
    if form == "csv":
        return csv_of(frame).encode()
    raise unknown("format of a table of two keys", form, ("table", "md", "tex", "html", "csv", "json", "parquet"))


def _value(board: Board, line: Line, key: str) -> str:
    return line.label if key == "mechanism" else board.machine if key == "machine" else str(board.question[key])


def _ambiguous(several: Sequence[tuple[Board, Line]], metric: str) -> str:
    """Say what tells the values of one cell apart, and how to choose."""
    for key in KEYS:
        values = sorted({_value(*entry, key) for entry in several})
        if len(values) > 1:
            how = "narrow it with a filter" if key == "machine" else f"narrow it, as in {_filter(key)}={values[0]}"
            return (
                f"{len(several)} values of {metric} fall into one cell: they differ in {key} "
                f"({', '.join(values)}); {how}, or give --rows {key} or --columns {key}"
            )
    return f"{len(several)} values of {metric} fall into one cell, of lines with one label: narrow what is shown"


def _filter(key: str) -> str:
    return {"n": "seq_len"}.get(key, key)


def _in_order(values: set[str], seen: Sequence[str]) -> list[str]:
    """Sort numbers by size, and leave words in the order in which the boards have them."""
    if all(value.isdecimal() for value in values):
        return sorted(values, key=int)
    return list(dict.fromkeys(value for value in seen if value in values))
