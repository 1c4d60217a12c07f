"""Leaderboards in the terminal. Boards of costs alone that differ in their lengths share a table, side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cab.analysis.leaderboard import COST_UNITS, LINE_KINDS, Board, Cell, Line, Metric, metrics_of
from cab.analysis.published import published_for
from cab.analysis.questions import QUESTION
from cab.analysis.results import Results
from cab.analysis.settings import settings_of
from cab.analysis.statuses import status_counts
from cab.paths import PACKAGE
from cab.plugins.cards import Card
from cab.plugins.registry import cards_of
from cab.report import notes, published
from cab.report.formats import chosen_metrics
from cab.report.repeating import repeating
from cab.report.summary import print_summary
from cab.report.units import DisplayUnit, display_unit

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"wrong": "bold red", "error": "red", "timeout": "yellow", "oom": "yellow"}
MOST_LINES = 40
REPEATING = "the cases of each row, for cab results show, and the command that repeats it:"
_GAP = 2  # characters between columns
_RANK_WIDTH = 5
_FOOTNOTE_WIDTH = 200
_LABEL_WIDTH = 36  # of a mechanism with its hyper-parameters; a longer one is cut in its middle


@dataclass
class _Column:
    """A metric at one length. All cells are of one width."""

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
        title_width = max(map(len, self.title.split("\n")))
        return max(title_width, sum(column.width + _GAP for column in self.columns) - _GAP)


class _CellText(NamedTuple):
    """The parts of a cell, which are aligned with those of the cells above and below."""

    value: str = ""
    half_width: str = ""
    marks: str = ""
    style: str = ""  # of the value


def print_report(results: Results, console: "Console", full: bool = False, columns: Sequence[str] = ()) -> None:
    """Print the notes on all leaderboards, and below them the leaderboards, so that these are what stays in view.

    Unless `full`, leaderboards of more than MOST_LINES lines are summarised. `columns` names the metrics to show.
    """
    boards = results.boards
    if not boards:
        console.print(notes.EMPTY if results.rows.empty else notes.BEYOND_LIMITS, markup=False)
        return
    summarised = not full and _line_count(boards) > MOST_LINES
    for note in _short_notes(results) if summarised else _notes(results):
        console.print(Padding(Text(note, style="dim"), (0, 0, 0, 2)))
    if summarised:
        print_summary(results, console)
        return
    differing = notes.settings_that_differ(boards)
    name_machines = len({board.machine for board in boards}) > 1
    for group in _boards_by_table(boards):
        first = group[0]
        subtitle = [notes.conditions(first), differing[settings_of(first)], first.machine if name_machines else ""]
        console.print(Text(f"\n{notes.title(group)}", style="bold"))
        console.print(Text(" · ".join(text for text in subtitle if text), style="dim"))
        _print_tables(group, console, columns)
        for line in published.published_lines(first):
            console.print(Text(line, style="dim"))
        if full:
            _print_commands(group, console)


def _print_commands(boards: Sequence[Board], console: "Console") -> None:
    """Print the case ids of each row of a table, and the command that repeats it, uncut, so that it can be copied."""
    texts = list(repeating(boards))
    if texts:
        console.print(Text(REPEATING, style="dim"))
    for text in texts:
        console.print(Text(text, style="dim"), soft_wrap=True)


def _line_count(boards: Sequence[Board]) -> int:
    """Estimate how many lines the tables have."""
    return sum(6 + max(len(board.lines) for board in group) for group in _boards_by_table(boards))


def _short_notes(results: Results) -> Iterator[str]:
    statuses = ", ".join(f"{count.rows} {status}" for status, count in status_counts(results.rows).items())
    yield " · ".join([*results.shown_machines, f"asked for: {statuses}"])


def _notes(results: Results) -> Iterator[str]:
    boards = results.boards
    yield from notes.legend(boards)
    if any(published_for(board) for board in boards):
        yield published.ABOUT
    known = notes.with_method()
    shown = next((metric.name for metric in metrics_of(boards) if metric.name in known), None)
    command = f"cab show metric={shown}, and " if shown else ""
    yield f"how each was measured: {command}the page of cab report"
    for machine in results.shown_machines:
        yield f"machine: {machine}"
    yield "asked for: " + ", ".join(f"{count.rows} {status}" for status, count in status_counts(results.rows).items())


def _boards_by_table(boards: Sequence[Board]) -> Iterator[list[Board]]:
    """Group the boards without scores that differ in nothing but their lengths."""
    groups: dict[tuple[object, ...], list[Board]] = {}
    for board in boards:
        fixed = tuple(board.question[name] for name in QUESTION if name not in ("n", "m"))
        lengths = (board.question["n"], board.question["m"]) if board.has_scores else None
        groups.setdefault((*fixed, board.machine, lengths), []).append(board)
    yield from groups.values()


def _print_tables(boards: Sequence[Board], console: "Console", chosen: Sequence[str]) -> None:
    """Print the tables of some boards: as many blocks side by side as the console is wide."""
    lines = _lines(boards)
    labels = [_label(line) for line in lines]
    ranks = [notes.ranks(line) for line in lines] if len(boards) == 1 else []
    width = console.width - max(label.cell_len for label in (*labels, Text("mechanism")))
    if ranks:
        width -= _RANK_WIDTH + _GAP
    footnotes: list[str] = []
    shown, left_out = (chosen_metrics(boards, chosen), []) if chosen else _shown_metrics(boards)
    blocks = [block for metric in shown for block in _blocks(metric, boards, lines, width - _GAP, footnotes)]
    for blocks_of_table in _blocks_by_table(blocks, width):
        console.print(Padding(_table(lines, labels, ranks, blocks_of_table), (1, 0, 0, 0)))
    if left_out:
        names = ", ".join(metric.name.replace("_", " ") for metric in left_out)
        console.print(Text(f"also measured, and in the page and the files: {names}", style="dim"))
    for number, reason in enumerate(footnotes, start=1):
        console.print(Text(f"[{number}] {reason}", style="dim"))


def _table(lines: Sequence[Line], labels: Sequence[Text], ranks: Sequence[str], blocks: Sequence[_Block]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold", padding=(0, _GAP, 0, 0))
    if ranks:
        table.add_column("", justify="right", style="dim")
    table.add_column("mechanism", vertical="bottom", no_wrap=True)
    for block in blocks:
        table.add_column(_block_head(block), vertical="bottom", no_wrap=True)
    for i, (line, label) in enumerate(zip(lines, labels, strict=True)):
        cells = [_block_row([column.cells[i] for column in block.columns], block) for block in blocks]
        last_of_kind = i + 1 < len(lines) and lines[i + 1].kind != line.kind
        table.add_row(*ranks[i : i + 1], label, *cells, end_section=last_of_kind)
    return table


def _block_head(block: _Block) -> Text:
    """Return the title with the lengths below it, or the title alone at the right where there are no lengths."""
    lengths = (" " * _GAP).join(column.head.rjust(column.width) for column in block.columns)
    if lengths.strip():
        return Text(f"{block.title}\n{lengths}")
    return Text("\n".join(line.rjust(block.width) for line in block.title.split("\n")))


def _lines(boards: Sequence[Board]) -> list[Line]:
    """Return every line of some boards once, in the order of the board with the greatest length."""
    by_key: dict[object, Line] = {}
    for board in reversed(boards):
        for line in board.lines:
            by_key.setdefault(line.key, line)
    return sorted(by_key.values(), key=lambda line: LINE_KINDS.index(line.kind))


def _shown_metrics(boards: Sequence[Board]) -> tuple[list[Metric], list[Metric]]:
    """Return the metrics that are shown, and the others.

    The scores are shown, the first metric of each unit of cost, every metric that a meter remarks upon, and those of
    meters that are not this project's own: nobody gets them without asking.
    """
    metrics = metrics_of(boards)
    first_of_unit = {metric.unit: metric.name for metric in reversed(metrics) if metric.unit in COST_UNITS}
    cells = [(name, cell) for board in boards for line in board.lines for name, cell in line.cells.items()]
    remarked = [name for name, cell in cells if cell.status == "ok" and cell.reasons]
    names = {*first_of_unit.values(), *remarked}
    shipped = _shipped_metrics()
    shown = [metric for metric in metrics if metric.is_score or metric.name in names or metric.name not in shipped]
    return shown, [metric for metric in metrics if metric not in shown]


def _shipped_metrics() -> set[str]:
    """Return the metrics of this project's own meters."""
    cards = [card for card in cards_of("meter").values() if isinstance(card, Card)]
    return {name for card in cards if Path(card.path).parent == PACKAGE / "meters" for name in card.facts["metrics"]}


def _blocks(
    metric: Metric, boards: Sequence[Board], lines: Sequence[Line], width: int, footnotes: list[str]
) -> Iterator[_Block]:
    """Yield a metric's columns in blocks of at most `width` characters."""
    line_of_key = [{line.key: line for line in board.lines} for board in boards]
    cells = [line.cells[metric.name] for by_key in line_of_key for line in by_key.values() if metric.name in line.cells]
    unit = display_unit(metric.unit, [cell.value for cell in cells])
    columns = []
    for board, by_key in zip(boards, line_of_key, strict=True):
        texts = [_cell_text(by_key.get(line.key), metric, board, unit, footnotes) for line in lines]
        columns.append(_Column(notes.lengths(board.question), _aligned(texts)))
    if all([t.plain for t in column.cells] == [t.plain for t in columns[0].cells] for column in columns):
        columns = [_Column("", columns[0].cells)]  # the metric does not depend on the length
    title = unit.header(metric.name)
    block = _Block(title if columns[0].head else title.replace(" (", "\n("), [])
    for column in columns:
        if block.columns and _Block("", [*block.columns, column]).width > width:
            yield block
            block = _Block(title, [])
        block.columns.append(column)
    yield block


def _cell_text(line: Line | None, metric: Metric, board: Board, unit: DisplayUnit, footnotes: list[str]) -> _CellText:
    cell = line.cells.get(metric.name) if line else None
    if line is None or cell is None:
        return _CellText()
    numbers = _footnote_numbers(cell, footnotes)
    if cell.value is None:
        status = "–" if cell.status in notes.EXPECTED_STATUSES else cell.status
        return _CellText(f"{status}{numbers}", style=_STYLES.get(cell.status, "dim"))
    return _CellText(
        unit.text(cell.value),
        unit.half_width(cell.value, cell.low, cell.high)
        if metric.by_difference
        else unit.relative_half_width(cell.value, cell.low, cell.high),
        notes.marks(line, cell, metric == board.headline) + numbers,
        "bold green" if cell.mark == "best" else "",
    )


def _footnote_numbers(cell: Cell, footnotes: list[str]) -> str:
    """Return the numbers of a cell's footnotes. A new reason is appended to `footnotes`."""
    texts = list(dict.fromkeys(map(_first_line, cell.reasons)))  # as they are printed, so that no two look the same
    for text in texts:
        if text not in footnotes:
            footnotes.append(text)
    return "".join(f"[{footnotes.index(text) + 1}]" for text in texts)


def _aligned(texts: Sequence[_CellText]) -> list[Text]:
    """Return the cells of a column with values, half-widths and marks below each other."""
    value_width, half_width_width, marks_width = (max(len(text[i]) for text in texts) for i in range(3))
    full_width = value_width + half_width_width + marks_width + (1 if half_width_width else 0)
    cells = []
    for text in texts:
        cell = Text()
        if not text.half_width and not text.marks:
            cell.append(text.value.rjust(full_width), style=text.style)
        else:
            cell.append(text.value.rjust(value_width), style=text.style)
            if half_width_width:
                cell.append(f" {text.half_width.ljust(half_width_width)}", style="dim")
            cell.append(text.marks.ljust(marks_width))
        cells.append(cell)
    return cells


def _block_row(cells: Sequence[Text], block: _Block) -> Text:
    """Join a line's cells, each aligned at the right of its column."""
    row = Text()
    for cell, column in zip(cells, block.columns, strict=True):
        gap = _GAP if row else 0
        row.append(" " * (column.width - cell.cell_len + gap)).append_text(cell)
    if len(block.columns) == 1:
        row.pad_left(block.width - row.cell_len)
    return row


def _label(line: Line) -> Text:
    note = line.kind if line.kind != "ranked" else "extension" if line.grade == "extension" else ""
    return Text(notes.shortened(line.label, _LABEL_WIDTH)).append(f" {note}" if note else "", style="dim")


def _blocks_by_table(blocks: Sequence[_Block], width: int) -> Iterator[list[_Block]]:
    """Yield as many blocks at a time as stand side by side in `width` characters."""
    side_by_side: list[_Block] = []
    for block in blocks:
        if side_by_side and sum(each.width + _GAP for each in (*side_by_side, block)) > width:
            yield side_by_side
            side_by_side = []
        side_by_side.append(block)
    yield side_by_side


def _first_line(text: str) -> str:
    line = text.strip().splitlines()[0]
    return line if len(line) <= _FOOTNOTE_WIDTH else f"{line[: _FOOTNOTE_WIDTH - 1]}…"
