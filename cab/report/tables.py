"""Leaderboards in the terminal. Boards of costs alone that differ in their lengths share a table, side by side."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from cab.report.derived_columns import DerivedColumn, derived_columns, line_cells
from cab.report.formats import Column, chosen_columns
from cab.report.repeating import repeating
from cab.report.summary import longest_boards, print_summary
from cab.report.units import DisplayUnit, display_unit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_STYLES = {"wrong": "bold red", "error": "red", "timeout": "yellow", "oom": "yellow"}
REPEATING = "the cases of each row, for cab results show, and the command that repeats it:"
_LEAST_LINES = 3  # of a table that is cut
_LEAST_HEIGHT = 12  # of such a table, with its title and head
_ALL = "all: cab report --full; fewer: filters such as pattern=CC seq_len=2048"
_NAMED_LENGTHS = 3  # of those that are not shown
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


def print_report(
    results: Results, console: "Console", full: bool = False, columns: Sequence[str] = (), below: int = 0
) -> None:
    """Print the notes on all leaderboards, and below them the leaderboards, so that these are what stays in view.

    Unless `full`, no more than notes.MOST_LINES lines, of which `below` are the caller's: several questions that need
    more are summarised, and of one question, and where `columns` are named, the last lines are left out. `columns`
    names metrics and derived columns.
    """
    boards = results.boards
    if not boards:
        console.print(notes.EMPTY if results.rows.empty else notes.BEYOND_LIMITS, markup=False)
        return
    derived = derived_columns(results, columns)
    chosen = chosen_columns(boards, columns, derived) if columns else []
    about = [column.about for column in chosen if isinstance(column, DerivedColumn)]
    tables = _Tables(console, columns, derived, notes.settings_that_differ(boards), len(_machines(boards)) > 1)
    groups = list(_boards_by_table(boards))
    if full:
        _print_parts(map(_note, [*_notes(results), *about]), console)
        for group in groups:
            _print_parts(tables.parts(group), console)
            _print_commands(group, console)
    elif len(groups) > 1 and not columns and not _fit(groups, results, tables, console, below):
        notes_above = [_note(text) for text in _short_notes(results, longest_boards(boards))]
        _print_parts(notes_above, console)
        print_summary(results, console, notes.MOST_LINES - below - _height(notes_above, console))
    else:
        _print_within_most_lines(results, groups, tables, about, console, below)


def _fit(groups: Sequence[list[Board]], results: Results, tables: "_Tables", console: "Console", below: int) -> bool:
    """Say whether all tables fit into notes.MOST_LINES, with the short notes."""
    if sum(6 + max(len(board.lines) for board in group) for group in groups) > notes.MOST_LINES:  # none has fewer
        return False
    parts = [
        *map(_note, _short_notes(results, results.boards)),
        *(part for group in groups for part in tables.parts(group)),
    ]
    return _height(parts, console) <= notes.MOST_LINES - below


def _machines(boards: Sequence[Board]) -> set[str]:
    return {board.machine for board in boards}


def _print_parts(parts: Iterable["RenderableType"], console: "Console") -> None:
    for part in parts:
        console.print(part)


def _note(text: str) -> Padding:
    return Padding(Text(text, style="dim"), (0, 0, 0, 2))


def _print_within_most_lines(
    results: Results,
    groups: Sequence[list[Board]],
    tables: "_Tables",
    about: Sequence[str],
    console: "Console",
    below: int,
) -> None:
    """Print as many lines of each table, and as many tables, as fit; what explains marks and columns is never cut."""
    whole = [tables.parts(group) for group in groups]
    notes_above = [_note(text) for text in (*_notes(results), *about)]
    if _height([*notes_above, *(part for parts in whole for part in parts)], console) > notes.MOST_LINES - below:
        notes_above = [_note(text) for text in (*_short_notes(results, results.boards), *about)]
    _print_parts(notes_above, console)
    left = notes.MOST_LINES - below - _height(notes_above, console)
    for i, (group, parts) in enumerate(zip(groups, whole, strict=True)):
        others = len(groups) - i - 1
        available = (left - 1) // (others + 1) if others else left
        if _height(parts, console) > available:
            parts = tables.cut(group, max(available, min(left - 1, _LEAST_HEIGHT)))
        height = _height(parts, console)
        if i and height > left - (1 if others else 0):
            console.print(Text(f"… and {_counted(others + 1, 'table')}; {_ALL}", style="dim"))
            return
        _print_parts(parts, console)
        left -= height


def _counted(count: int, noun: str) -> str:
    return f"{count} more {noun}{'' if count == 1 else 's'}"


def _other_lengths(boards: Sequence[Board]) -> str:
    """Count the lengths that are not shown and name the first of them: `11 other lengths (256, 512, 768, …)`."""
    named = [notes.lengths(board.question).removeprefix("n = ") for board in boards[:_NAMED_LENGTHS]]
    named += ["…"] if len(boards) > _NAMED_LENGTHS else []
    return f"{len(boards)} other length{'' if len(boards) == 1 else 's'} ({', '.join(named)})"


def _height(parts: Sequence["RenderableType"], console: "Console") -> int:
    """Count the lines that some parts are printed on."""
    return sum(len(console.render_lines(part, pad=False)) for part in parts)


def _print_commands(boards: Sequence[Board], console: "Console") -> None:
    """Print the case ids of each row of a table, and the command that repeats it, uncut, so that it can be copied."""
    texts = list(repeating(boards))
    if texts:
        console.print(Text(REPEATING, style="dim"))
    for text in texts:
        console.print(Text(text, style="dim"), soft_wrap=True)


def _short_notes(results: Results, boards: Sequence[Board]) -> Iterator[str]:
    """Yield what explains the marks of some boards and limits their comparison, and in one line where all is from."""
    yield from notes.legend(boards)
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


@dataclass(frozen=True)
class _Tables:
    """Makes the tables of groups of boards, for one console and one choice of columns."""

    console: "Console"
    columns: Sequence[str]  # names; none: those that are shown where nobody asked
    derived: Mapping[str, DerivedColumn]
    differing: Mapping[str, str]  # settings -> those that not all boards share, in words
    name_machines: bool

    def parts(
        self, boards: Sequence[Board], most: int | None = None, left_out: Sequence[Board] = ()
    ) -> list["RenderableType"]:
        """Return what is printed of boards that share a table: title, conditions, tables of their columns, footnotes.

        As many blocks stand side by side as the console is wide. `most` is how many lines of the boards are shown;
        `left_out` are the boards of other lengths that are named and not shown.
        """
        first = boards[0]
        machine = first.machine if self.name_machines else ""
        subtitle = [notes.conditions(first), self.differing[settings_of(first)], machine]
        parts: list[RenderableType] = [
            Text(f"\n{notes.title(boards)}", style="bold"),
            Text(" · ".join(text for text in subtitle if text), style="dim"),
        ]
        every_line = _lines(boards)
        lines = every_line[:most]
        labels = [_label(line) for line in lines]
        ranks = [notes.ranks(line) for line in lines] if len(boards) == 1 else []
        width = self.console.width - max(label.cell_len for label in (*labels, Text("mechanism")))
        if ranks:
            width -= _RANK_WIDTH + _GAP
        footnotes: list[str] = []
        blocks, below = self._blocks(boards, lines, width - _GAP, footnotes)
        for blocks_of_table in _blocks_by_table(blocks, width):
            parts.append(Padding(_table(lines, labels, ranks, blocks_of_table), (1, 0, 0, 0)))
        if len(lines) < len(every_line):
            below = [f"… and {_counted(len(every_line) - len(lines), 'line')}; {_ALL}", *below]
        if left_out:
            below = [f"… and {_other_lengths(left_out)}: --full", *below]
        below += [f"[{number}] {reason}" for number, reason in enumerate(footnotes, start=1)]
        return [*parts, *(Text(text, style="dim") for text in (*below, *published.published_lines(first)))]

    def cut(self, boards: Sequence[Board], height: int) -> list["RenderableType"]:
        """Return the parts of boards with as many lines as fit into a height, but at least _LEAST_LINES.

        Where not even these fit with every length side by side, they are those of the longest board, and the other
        lengths are named below them.
        """
        for group, left_out in ((boards, ()), (boards[-1:], boards[:-1])):
            most = len(_lines(group))
            parts = self.parts(group, most, left_out)
            while (excess := _height(parts, self.console) - height) > 0 and most > _LEAST_LINES:
                tables = sum(isinstance(part, Padding) for part in parts)
                most = max(most - -(-excess // tables), _LEAST_LINES)
                parts = self.parts(group, most, left_out)
            if excess <= 0:
                break
        while excess <= 0 and most < len(_lines(group)):  # a line's footnotes went with it: there may be room again
            larger = self.parts(group, most + 1, left_out)
            if _height(larger, self.console) > height:
                break
            parts, most = larger, most + 1
        return parts

    def _blocks(
        self, boards: Sequence[Board], lines: Sequence[Line], width: int, footnotes: list[str]
    ) -> tuple[list["_Block"], list[str]]:
        """Return the blocks of the columns, and the texts below them: which others there are, how to read these."""
        if self.columns:
            shown = chosen_columns(boards, self.columns, self.derived)
            return [block for column in shown for block in _blocks(column, boards, lines, width, footnotes)], []
        metrics, left_out = _shown_metrics(boards)
        blocks = [block for metric in metrics for block in _blocks(metric, boards, lines, width, footnotes)]
        derived = self._that_help(boards, lines, blocks, width)
        blocks += [block for column in derived for block in _blocks(column, boards, lines, width, footnotes)]
        below = [column.about for column in derived]
        if left_out:
            names = ", ".join(metric.name.replace("_", " ") for metric in left_out)
            below.append(f"also measured, and in the page and the files: {names}")
        return blocks, below

    def _that_help(
        self, boards: Sequence[Board], lines: Sequence[Line], blocks: Sequence["_Block"], width: int
    ) -> list[DerivedColumn]:
        """Return the derived columns that are shown unasked: of one board, that say something, while there is room."""
        if len(boards) > 1:
            return []
        *_, last_table = _blocks_by_table(blocks, width)
        room = width - sum(block.width + _GAP for block in last_table)
        shown = []
        for column in self.derived.values():
            if column.helps(boards[0], column.cells(boards[0])):
                needed = sum(block.width + _GAP for block in _blocks(column, boards, lines, width, []))
                if needed <= room:
                    shown.append(column)
                    room -= needed
        return shown


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
    column: Column, boards: Sequence[Board], lines: Sequence[Line], width: int, footnotes: list[str]
) -> Iterator[_Block]:
    """Yield a column at each length of the boards, in blocks of at most `width` characters."""
    title, texts = (
        _metric_texts(column, boards, lines, footnotes)
        if isinstance(column, Metric)
        else (column.head, [[_CellText(cell.text) for cell in line_cells(column, board, lines)] for board in boards])
    )
    columns = [
        _Column(notes.lengths(board.question), _aligned(of_board))
        for board, of_board in zip(boards, texts, strict=True)
    ]
    if all([t.plain for t in column.cells] == [t.plain for t in columns[0].cells] for column in columns):
        columns = [_Column("", columns[0].cells)]  # the metric does not depend on the length
    if columns[0].head:
        title = title.replace("\n", " ")
    block = _Block(title, [])
    for column_at_length in columns:
        if block.columns and _Block("", [*block.columns, column_at_length]).width > width:
            yield block
            block = _Block(title, [])
        block.columns.append(column_at_length)
    yield block


def _metric_texts(
    metric: Metric, boards: Sequence[Board], lines: Sequence[Line], footnotes: list[str]
) -> tuple[str, list[list[_CellText]]]:
    """Return the title of a metric, and the texts of its cells: of each board, of each line."""
    line_of_key = [{line.key: line for line in board.lines} for board in boards]
    cells = [line.cells[metric.name] for by_key in line_of_key for line in by_key.values() if metric.name in line.cells]
    unit = display_unit(metric.unit, [cell.value for cell in cells])
    texts = [
        [_cell_text(by_key.get(line.key), metric, board, unit, footnotes) for line in lines]
        for board, by_key in zip(boards, line_of_key, strict=True)
    ]
    return unit.header(metric.name).replace(" (", "\n("), texts


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
