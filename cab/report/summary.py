"""The summary in the terminal: of each task and pattern, at the longest n, the best and how sure they are."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.comparison import ratio
from cab.analysis.derived_values import softmax_line
from cab.analysis.leaderboard import Board
from cab.analysis.questions import QUESTION
from cab.analysis.results import Results
from cab.analysis.selection import FILTERS
from cab.report import notes
from cab.report.derived_columns import DerivedColumn, derived_columns
from cab.report.units import display_unit, format_number

if TYPE_CHECKING:
    from rich.console import Console

BEST = 3  # mechanisms of a board that are named where there is no room for all
SUMMARY_FRAME = 4  # lines beside the rows: the head, what was left out, and the hint, which may be folded
_LABEL_WIDTH = 28
_OPTIONAL = ("× softmax", "wins from n", "failed")  # the last is left out first where there is no room
_WIDEST = 1000


def print_summary(results: Results, console: "Console", most_rows: int) -> None:
    """Print the lines of each question, or its best three where not all fit, or the best alone where not these do.

    At most `most_rows` rows: what is beyond them is counted.
    """
    boards = longest_boards(results.boards)
    best = next((most for most in (len(results.rows), BEST) if _row_count(boards, most) <= most_rows), 1)
    names = _differing(boards)
    titles = [*names, "rank", "mechanism", "value", "±", *_OPTIONAL]
    wins = derived_columns(results)["efficiency_length"]
    rows: list[dict[str, Text]] = []
    shown = 0
    while shown < len(boards) and len(rows) < most_rows:
        rows += (dict(zip(titles, row, strict=True)) for row in _board_rows(boards[shown], best, names, wins))
        shown += 1
    table, omitted = _fitting(titles, rows, console)
    console.print(table)
    if omitted:
        console.print(Text(f"without {', '.join(omitted)}, for which {console.width} columns are too few", style="dim"))
    if shown < len(boards):
        console.print(Text(f"… and {len(boards) - shown} more questions", style="dim"))
    hint = f"all lines: cab report --full; one board: {_filters(boards, names)}; the page filters and draws"
    console.print(Text(hint, style="dim"))


def _fitting(titles: Sequence[str], rows: Sequence[dict[str, Text]], console: "Console") -> tuple[Table, list[str]]:
    """Return a table that is no wider than the console, and the columns that had to be left out for that."""
    for count in range(len(_OPTIONAL) + 1):
        omitted = [*_OPTIONAL[len(_OPTIONAL) - count :]]
        table = _table([title for title in titles if title not in omitted], rows)
        if console.measure(table, options=console.options.update(width=_WIDEST)).maximum <= console.width:
            break
    else:
        table.padding = (0, 1, 0, 0)  # of a column to the next: one space instead of two
    return table, omitted


def _table(titles: Sequence[str], rows: Sequence[dict[str, Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in ("n", "value", "±", "× softmax") else "left")
    for row in rows:
        table.add_row(*(row[title] for title in titles))
    return table


def _filters(boards: Sequence[Board], names: Sequence[str]) -> str:
    """Return the filters that leave the first of several boards; of its properties, those that tell it apart."""
    question = boards[0].question if boards else {"pattern": "CC", "n": 2048, "m": 2048}
    values = {"seq_len" if name == "n" else name: question[name] for name in names if name in question}
    if question["m"] != question["n"]:
        values["source_len"] = question["m"]
    if len({board.question["task"] for board in boards}) < 2:
        values.pop("task", None)
    return " ".join(f"{name}={value}" for name, value in values.items() if name in FILTERS)


def longest_boards(boards: Sequence[Board]) -> list[Board]:
    """Return, of the boards that differ in nothing but their lengths, the longest."""
    longest: dict[tuple[object, ...], Board] = {}
    for board in boards:
        key = (*(board.question[name] for name in QUESTION if name not in ("n", "m")), board.machine)
        held = longest.get(key)
        if held is None or (board.question["n"], board.question["m"]) > (held.question["n"], held.question["m"]):
            longest[key] = board
    return list(longest.values())


def _row_count(boards: Sequence[Board], most: int) -> int:
    """Count the rows of a table with so many lines of each board; one without a ranked line has a row, too."""
    return sum(min(most, sum(line.rank is not None for line in board.lines)) or 1 for board in boards)


def _differing(boards: Sequence[Board]) -> list[str]:
    """Name the properties that tell the boards apart; task, pattern and n always."""
    names = ["task", "pattern", "n"]
    names += [
        name
        for name in QUESTION
        if name not in (*names, "m", "settings", "schema") and len({str(board.question[name]) for board in boards}) > 1
    ]
    return names


def _board_rows(board: Board, best: int, names: Sequence[str], wins: DerivedColumn) -> Iterator[list[Text]]:
    headline = board.headline
    wins_of_line = {} if headline.is_score else wins.cells(board)
    ranked = [line for line in board.lines if line.rank is not None]
    unit = display_unit(headline.unit, [line.cells[headline.name].value for line in ranked])
    question = [Text(_words(board, name), style="bold") for name in names]
    reference = softmax_line(board)
    failed = Counter(
        cell.status
        for line in board.lines
        if (cell := line.cells.get(headline.name)) is not None and cell.value is None
    )
    failures = ", ".join(f"{count} {status}" for status, count in failed.items())
    for i, line in enumerate(ranked[:best]):
        cell = line.cells[headline.name]
        half_width = unit.half_width if headline.is_score else unit.relative_half_width
        times = None if headline.is_score or reference is None else ratio(reference.cells.get(headline.name), cell)
        texts = [
            notes.ranks(line),
            notes.shortened(line.label, _LABEL_WIDTH),
            f"{unit.text(cell.value or 0.0)} {unit.name}{notes.marks(line, cell, True)}",
            half_width(cell.value or 0.0, cell.low, cell.high),
            f"{format_number(times[0])}" if times else "",
            wins_of_line[line.key].text if line.key in wins_of_line else "",
            failures if i == 0 else "",
        ]
        yield [*(question if i == 0 else [Text()] * len(names)), *map(Text, texts)]
    if not ranked:
        why = "no value" if headline.higher_is_better is not None else "no direction: not ranked"
        yield [*question, *map(Text, ("", why, "", "", "", "", failures))]


def _words(board: Board, name: str) -> str:
    value = board.question[name]
    if name != "n":
        return str(value).replace("forward_backward", "fwd + bwd")
    n, m = board.question["n"], board.question["m"]
    return f"{n:,}" if n == m else f"{n:,} ← {m:,}"
