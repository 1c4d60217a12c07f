"""The summary in the terminal: of each task and pattern, at the longest n, the best and how sure they are."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.comparison import ratio
from cab.analysis.derived_values import softmax_line
from cab.analysis.leaderboard import Board
from cab.analysis.questions import QUESTION
from cab.analysis.results import Results
from cab.analysis.selection import FILTERS
from cab.analysis.settings import settings_of
from cab.report import notes
from cab.report.derived_columns import DerivedColumn, derived_columns
from cab.report.units import display_unit, format_number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BEST = 3  # mechanisms of a board that are named where there is no room for all
_LABEL_WIDTH, _LEAST_LABEL = 28, 10
# columns that are left out where there is no room, in this order
_OPTIONAL = ("settings", "machine", "failed", "wins from n", "× softmax")
_WIDEST = 1000
_ALWAYS = ("task", "pattern", "n")


def print_summary(results: Results, console: "Console", height: int) -> None:
    """Print the lines of each question, or its best three where not all fit, or the best alone where not these do.

    At most `height` lines: what is beyond them is counted.
    """
    boards = longest_boards(results.boards)
    places, wins = _places(boards), derived_columns(results)["efficiency_length"]
    most_rows = height - 2  # beside the head and the hint; what else is printed is known when it is
    parts = _parts(boards, places, wins, console, most_rows)
    while (excess := sum(len(console.render_lines(part)) for part in parts) - height) > 0 and most_rows > 1:
        most_rows = max(most_rows - excess, 1)
        parts = _parts(boards, places, wins, console, most_rows)
    for part in parts:
        console.print(part)


def _parts(
    boards: Sequence[Board],
    places: Sequence[Mapping[str, str]],
    wins: DerivedColumn,
    console: "Console",
    most_rows: int,
) -> list["RenderableType"]:
    """Return the table with at most so many rows, and what stands below it."""
    every = max((len(board.lines) for board in boards), default=0)
    best = next((most for most in (every, BEST) if _row_count(boards, most) <= most_rows), 1)
    names = list(places[0]) if places else []
    titles = [*names, "rank", "mechanism", "value", "±", "× softmax", "wins from n", "failed"]
    rows: list[dict[str, Text]] = []
    shown = 0
    while shown < len(boards) and len(rows) < most_rows:
        of_board = _board_rows(boards[shown], best, places[shown], wins)
        rows += (dict(zip(titles, row, strict=True)) for row in of_board)
        shown += 1
    table, omitted = _fitting(titles, rows, console)
    below = []
    if omitted:
        below.append(f"without {', '.join(omitted)}, for which {console.width} columns are too few")
    if shown < len(boards):
        below.append(f"… and {len(boards) - shown} more questions")
    fewer = "fewer boards" if {"settings", "machine"} & {*names} else "one board"
    below.append(f"all lines: cab report --full; {fewer}: {_filters(boards, places)}; the page filters and draws")
    return [table, *(Text(text, style="dim") for text in below)]


def _fitting(titles: Sequence[str], rows: Sequence[dict[str, Text]], console: "Console") -> tuple[Table, list[str]]:
    """Return a table that is no wider than the console, and the columns that had to be left out for that."""
    optional = [title for title in _OPTIONAL if title in titles]
    for count in range(len(optional) + 1):
        omitted = optional[:count]
        kept = [title for title in titles if title not in omitted]
        table = _table(kept, rows)
        if (excess := _width(table, console) - console.width) <= 0:
            return table, omitted
    longest = max(row["mechanism"].cell_len for row in rows)
    room = max(longest - excess, _LEAST_LABEL)
    return _table(kept, [{**row, "mechanism": _cut(row["mechanism"], room)} for row in rows]), omitted


def _width(table: Table, console: "Console") -> int:
    return console.measure(table, options=console.options.update(width=_WIDEST)).maximum


def _cut(text: Text, width: int) -> Text:
    cut = text.copy()
    cut.truncate(width, overflow="ellipsis")
    return cut


def _table(titles: Sequence[str], rows: Sequence[dict[str, Text]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in ("n", "value", "±", "× softmax") else "left")
    for row in rows:
        table.add_row(*(row[title] for title in titles))
    return table


def _filters(boards: Sequence[Board], places: Sequence[Mapping[str, str]]) -> str:
    """Return the filters that leave the first of several boards; of its properties, those that tell it apart."""
    names = [name for name, text in places[0].items() if text] if places else list(_ALWAYS)
    question = boards[0].question if boards else {"pattern": "CC", "n": 2048, "m": 2048}
    values = {"seq_len" if name == "n" else name: question[name] for name in names if name in question}
    if question["m"] != question["n"]:
        values["source_len"] = question["m"]
    if len({board.question["task"] for board in boards}) < 2:
        values.pop("task", None)
    return " ".join(f"{name}={value}" for name, value in values.items() if name in FILTERS)


def longest_boards(boards: Sequence[Board]) -> list[Board]:
    """Return, of the boards that differ in nothing but their lengths, the longest; of scores one of all machines.

    Those of costs come first: they are few, and what most people ask for.
    """
    longest: dict[tuple[object, ...], Board] = {}
    for board in boards:
        machine = "" if board.has_scores else board.machine
        key = (*(board.question[name] for name in QUESTION if name not in ("n", "m")), machine)
        held = longest.get(key)
        if held is None or (board.question["n"], board.question["m"]) > (held.question["n"], held.question["m"]):
            longest[key] = board
    return sorted(longest.values(), key=lambda board: board.has_scores)


def _row_count(boards: Sequence[Board], most: int) -> int:
    """Count the rows of a table with so many lines of each board; one without a ranked line has a row, too."""
    return sum(min(most, sum(line.rank is not None for line in board.lines)) or 1 for board in boards)


def _places(boards: Sequence[Board]) -> list[dict[str, str]]:
    """Return what tells each board apart, by the title of its column: task, pattern and n always.

    What else is named where it is not the same on all boards of the task: a task itself says most of it.
    """
    of_task: dict[str, list[Board]] = {}
    for board in boards:
        of_task.setdefault(board.question["task"], []).append(board)
    settings = {task: notes.settings_that_differ(of) for task, of in of_task.items()}
    machines = {task: _machine_parts(of) for task, of in of_task.items()}
    places = []
    for board in boards:
        task = board.question["task"]
        others = of_task[task]
        place = {name: _words(board, name) for name in _ALWAYS}
        for name in QUESTION:
            if name not in (*_ALWAYS, "m", "settings", "schema") and _differs(others, name):
                place[name] = _words(board, name)
        place["settings"] = settings[task][settings_of(board)]
        place["machine"] = machines[task].get(board.machine, "")
        places.append(place)
    used = {name for place in places for name, text in place.items() if text}
    titles = [name for name in dict.fromkeys((*_ALWAYS, *QUESTION, "machine")) if name in used]
    return [{name: place.get(name, "") for name in titles} for place in places]


def _differs(boards: Sequence[Board], name: str) -> bool:
    return len({str(board.question[name]) for board in boards}) > 1


def _machine_parts(boards: Sequence[Board]) -> dict[str, str]:
    """Return the machine of each board of costs -> what of it is not of all these machines."""
    parts = {board.machine: board.machine.split(", ") for board in boards if not board.has_scores}
    of_all = set.intersection(*map(set, parts.values())) if parts else set()
    return {machine: ", ".join(part for part in of if part not in of_all) for machine, of in parts.items()}


def _board_rows(board: Board, best: int, place: Mapping[str, str], wins: DerivedColumn) -> Iterator[list[Text]]:
    headline = board.headline
    wins_of_line = {} if headline.is_score else wins.cells(board)
    ranked = [line for line in board.lines if line.rank is not None]
    unit = display_unit(headline.unit, [line.cells[headline.name].value for line in ranked])
    question = [Text(text, style="bold") for text in place.values()]
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
        yield [*(question if i == 0 else [Text()] * len(place)), *map(Text, texts)]
    if not ranked:
        why = "no value" if headline.higher_is_better is not None else "no direction: not ranked"
        yield [*question, *map(Text, ("", why, "", "", "", "", failures))]


def _words(board: Board, name: str) -> str:
    value = board.question[name]
    if name != "n":
        return str(value).replace("forward_backward", "fwd + bwd")
    n, m = board.question["n"], board.question["m"]
    return f"{n:,}" if n == m else f"{n:,} ← {m:,}"
