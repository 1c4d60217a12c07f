"""The report in the terminal: a table a question; where only costs were asked for, lengths stand side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cab.analysis.leaderboard import Board, Cell, Line, Metric
from cab.analysis.questions import QUESTION, machine_names
from cab.analysis.ranking import leaderboard
from cab.analysis.units import OF_THE_COST, Scale, scale
from cab.report import notes, published

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

_STYLES = {"wrong": "bold red", "error": "red", "timeout": "yellow", "oom": "yellow"}
_GAP = 2  # between columns


@dataclass
class _Column:
    """A metric at one length, every cell as wide as the others."""

    head: str
    cells: list[Text]

    @property
    def width(self) -> int:
        return max(len(self.head), *(cell.cell_len for cell in self.cells))


@dataclass
class _Block:
    """A metric at some lengths, under one title."""

    title: str
    columns: list[_Column]

    @property
    def width(self) -> int:
        return max(max(map(len, self.title.split("\n"))), sum(c.width + _GAP for c in self.columns) - _GAP)


def print_report(rows: "DataFrame", environments: "DataFrame", console: "Console") -> None:
    """Print every leaderboard, and below them what the numbers rest on and do not show."""
    if rows.empty:
        console.print(notes.EMPTY, markup=False)
        return
    boards = leaderboard(rows, environments)
    differing = notes.settings_that_differ(boards)
    several = len({board.machine for board in boards}) > 1
    for group in _folded(boards):
        first = group[0]
        about = [notes.conditions(first), differing[first.question["settings"] or "{}"], first.machine * several]
        console.print(Text(f"\n{notes.title(*group)}", style="bold"))
        console.print(Text(" · ".join(word for word in about if word), style="dim"))
        _print_tables(group, console)
        for line in published.lines(first):
            console.print(Text(line, style="dim"))
    console.print()
    said = ["± the longer arm of the 95 % interval"]
    said += [line + "; the page says why" * line.startswith("†") for line in notes.legend(boards)]
    said += [published.ABOUT] * any(published.of(board) for board in boards)
    said += notes.methods(boards)
    said += [f"machine: {machine}" for machine in dict.fromkeys(machine_names(environments).values())]
    said += ["asked for: " + ", ".join(f"{count} {status}" for status, (count, _) in notes.status_counts(rows).items())]
    for line in said:
        console.print(Padding(Text(line, style="dim"), (0, 0, 0, 2)))


def _folded(boards: Sequence[Board]) -> Iterator[list[Board]]:
    """Put boards without scores that differ in nothing but their lengths together."""
    groups: dict[tuple[object, ...], list[Board]] = {}
    for board in boards:
        fixed = tuple(board.question[name] for name in QUESTION if name not in ("n", "m"))
        lengths = (board.question["n"], board.question["m"]) if board.scores else None
        groups.setdefault((*fixed, board.machine, lengths), []).append(board)
    yield from groups.values()


def _print_tables(group: Sequence[Board], console: "Console") -> None:
    lines = _lines(group)
    names = [_name(line) for line in lines]
    ranks = [str(line.rank or "") for line in lines] if len(group) == 1 else []
    room = console.width - max(name.cell_len for name in (*names, Text("mechanism"))) - (2 + _GAP if ranks else 0)
    footnotes: list[str] = []
    metrics, left_out = _chosen(group)
    blocks = [block for metric in metrics for block in _blocks(metric, group, lines, room - _GAP, footnotes)]
    for part in _parts(blocks, room):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
        if ranks:
            table.add_column("", justify="right", style="dim")
        table.add_column("mechanism", vertical="bottom", overflow="fold")
        for block in part:
            head = (" " * _GAP).join(column.head.rjust(column.width) for column in block.columns)
            title = block.title if head.strip() else "\n".join(t.rjust(block.width) for t in block.title.split("\n"))
            table.add_column(Text(title + (f"\n{head}" if head.strip() else "")), vertical="bottom", no_wrap=True)
        for at, (line, name) in enumerate(zip(lines, names, strict=True)):
            cells = [_joined([column.cells[at] for column in block.columns], block) for block in part]
            ends = at + 1 < len(lines) and lines[at + 1].kind != line.kind
            table.add_row(*ranks[at : at + 1], name, *cells, end_section=ends)
        console.print(Padding(table, (1, 0, 0, 0)))
    if left_out:
        words = ", ".join(metric.name.replace("_", " ") for metric in left_out)
        console.print(Text(f"also measured, and in the page and the files: {words}", style="dim"))
    for number, reason in enumerate(footnotes, start=1):
        console.print(Text(f"[{number}] {_first_line(reason)}", style="dim"))


def _lines(group: Sequence[Board]) -> list[Line]:
    """Return every line of some boards once, in the order of the longest."""
    found: dict[object, Line] = {}
    for board in reversed(group):
        for line in board.lines:
            found.setdefault(_key(line), line)
    return sorted(found.values(), key=lambda line: ("ranked", "floor", "leaky").index(line.kind))


def _key(line: Line) -> tuple[str, str, str, str]:
    return line.mechanism, str(line.params), line.backend, line.grade


def _chosen(group: Sequence[Board]) -> tuple[list[Metric], list[Metric]]:
    """Choose the scores, the first metric of each unit, and what a meter remarks upon; return the others too."""
    metrics = notes.column_metrics(group)
    first = {metric.unit: metric.name for metric in reversed(metrics) if metric.unit in OF_THE_COST}
    cells = [(name, cell) for board in group for line in board.lines for name, cell in line.cells.items()]
    chosen = {*first.values(), *(name for name, cell in cells if cell.status == "ok" and cell.reasons)}
    shown = [metric for metric in metrics if metric.scores or metric.name in chosen]
    return shown, [metric for metric in metrics if metric not in shown]


def _blocks(
    metric: Metric, group: Sequence[Board], lines: Sequence[Line], room: int, footnotes: list[str]
) -> Iterator[_Block]:
    """Yield a metric's columns, as many lengths at a time as fit."""
    found = [{_key(line): line for line in board.lines} for board in group]
    cells = [line.cells[metric.name] for own in found for line in own.values() if metric.name in line.cells]
    unit = scale(metric.unit, [cell.value for cell in cells])
    columns = []
    for board, own in zip(group, found, strict=True):
        parts = [_parted(own.get(_key(line)), metric, board, unit, footnotes) for line in lines]
        widths = [max(len(part[i]) for part in parts) for i in range(3)]
        texts = [_assembled(part, widths) for part in parts]
        columns.append(_Column(notes.lengths(board.question), texts))
    if all([t.plain for t in column.cells] == [t.plain for t in columns[0].cells] for column in columns):
        columns = [_Column("", columns[0].cells)]  # no length changes it
    title = unit.header(metric.name)
    block = _Block(title if columns[0].head else title.replace(" (", "\n("), [])
    for column in columns:
        if block.columns and _Block("", [*block.columns, column]).width > room:
            yield block
            block = _Block(title, [])
        block.columns.append(column)
    yield block


Parts = tuple[str, str, str, str]  # value, interval, marks, and the value's style


def _parted(line: Line | None, metric: Metric, board: Board, unit: Scale, footnotes: list[str]) -> Parts:
    cell = line.cells.get(metric.name) if line else None
    if line is None or cell is None:
        return "", "", "", ""
    numbers = _footnote_numbers(cell, footnotes)
    if cell.value is None:
        return f"{'–' if cell.status in notes.QUIET else cell.status}{numbers}", "", "", _STYLES.get(cell.status, "dim")
    marks = notes.marks(line, cell, metric == board.headline) + numbers
    half = unit.half_width(cell.value, cell.low, cell.high)
    return unit.text(cell.value), half, marks, "bold green" if cell.mark == "best" else ""


def _footnote_numbers(cell: Cell, footnotes: list[str]) -> str:
    for reason in cell.reasons:
        if reason not in footnotes:
            footnotes.append(reason)
    return "".join(f"[{footnotes.index(reason) + 1}]" for reason in cell.reasons)


def _assembled(parts: Parts, widths: Sequence[int]) -> Text:
    """Put value, interval and marks where they stand in the cells above and below."""
    value, half, marks, style = parts
    text = Text()
    if not half and not marks:
        return text.append(value.rjust(sum(widths) + bool(widths[1])), style=style)
    text.append(value.rjust(widths[0]), style=style)
    if widths[1]:
        text.append(f" {half.ljust(widths[1])}", style="dim")
    return text.append(marks.ljust(widths[2]))


def _joined(cells: Sequence[Text], block: _Block) -> Text:
    text = Text()
    for cell, column in zip(cells, block.columns, strict=True):
        text.append(" " * (column.width - cell.cell_len + (_GAP if text else 0))).append_text(cell)
    text.pad_left(block.width - text.cell_len if len(block.columns) == 1 else 0)
    return text


def _name(line: Line) -> Text:
    about = line.kind if line.kind != "ranked" else "extension" if line.grade == "extension" else ""
    return Text(line.label).append(f" {about}" if about else "", style="dim")


def _parts(blocks: Sequence[_Block], room: int) -> Iterator[list[_Block]]:
    """Yield as many blocks at a time as fit side by side."""
    part: list[_Block] = []
    for block in blocks:
        if part and sum(b.width + _GAP for b in (*part, block)) > room:
            yield part
            part = []
        part.append(block)
    yield part


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0]
    return line if len(line) <= 200 else f"{line[:199]}…"
