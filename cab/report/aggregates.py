"""The aggregate over tasks, a line for each mechanism with what it does not cover; and CAB's own boards beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.aggregates import Aggregate, aggregated
from cab.analysis.leaderboard import Board
from cab.analysis.published import published_rows
from cab.analysis.ranking import pattern_order
from cab.analysis.results import Results

if TYPE_CHECKING:
    from rich.console import Console

MIN_TASKS = 2
MOST_LINES = 12  # of one pattern
ABOUT = (
    "each score between none (0) and softmax (1) of its board, perplexity by its log, averaged within tasks, then "
    "over tasks; interval: bootstrap over the tasks, so that it says nothing of other seeds; rank: the range when any "
    "one task is left out; recipes and sizes are those of each board; slots that do not measure attention are left out"
)
ABOUT_CAB = (
    "CAB's compositional index, as CAB published it: the mean z-score over its tasks against the mechanisms that CAB "
    "had measured, so that it depends on who is among them; its data, sizes and recipes are not ours"
)


def aggregates_by_pattern(boards: Sequence[Board]) -> dict[str, list[Aggregate]]:
    """Return pattern -> the aggregates over its tasks, where two tasks or more have scores."""
    scored = [board for board in boards if board.has_scores]
    by_pattern = {}
    for pattern in sorted({str(board.question["pattern"]) for board in scored}, key=pattern_order):
        aggregates = aggregated([board for board in scored if board.question["pattern"] == pattern])
        if aggregates and aggregates[0].tasks >= MIN_TASKS:
            by_pattern[pattern] = aggregates
    return by_pattern


def cabs_boards() -> list[tuple[str, int, str, float]]:
    """Return pattern, rank, mechanism and index of CAB's four published boards."""
    rows = [
        (row["pattern"], row["mechanism"], float(row["value"]))
        for row in published_rows()
        if row["benchmark"] == "CAB" and row["metric"] == "compositional_index"
    ]
    boards = []
    for pattern in sorted({pattern for pattern, *_ in rows}, key=pattern_order):
        own = sorted((row for row in rows if row[0] == pattern), key=lambda row: -row[2])
        boards += [(pattern, rank, mechanism, index) for rank, (_, mechanism, index) in enumerate(own, start=1)]
    return boards


def texts(aggregate: Aggregate) -> tuple[str, str, str, str, str, str]:
    """Write an aggregate: rank, mechanism, value, interval, number of tasks, missing tasks."""
    low, high = aggregate.ranks or (None, None)
    rank = "" if low is None else str(low) if low == high else f"{low}–{high}"
    interval = "" if aggregate.low is None or aggregate.high is None else f"[{aggregate.low:.2f}, {aggregate.high:.2f}]"
    missing = ", ".join(aggregate.missing)
    return rank, aggregate.mechanism, f"{aggregate.value:.2f}", interval, str(aggregate.tasks), missing


def print_aggregates(results: Results, console: "Console") -> None:
    """Print the aggregate of each pattern in which two tasks or more have scores; nothing where there is none."""
    by_pattern = aggregates_by_pattern(results.boards)
    for pattern, aggregates in by_pattern.items():
        title = f"\n{pattern}, over {aggregates[0].tasks + len(aggregates[0].missing)} tasks"
        table = Table(box=None, pad_edge=False, title=title, title_style="bold", title_justify="left")
        for head in ("rank", "mechanism", "aggregate", "95 % interval", "tasks", "missing"):
            table.add_column(head, no_wrap=True)
        for each in aggregates[:MOST_LINES]:
            table.add_row(*map(Text, texts(each)))
        console.print(table)
    if by_pattern:
        console.print(Text(ABOUT, style="dim"))
    if any(str(board.question["task"]).startswith("cab_") for board in results.boards):
        for pattern in by_pattern or dict.fromkeys(pattern for pattern, *_ in cabs_boards()):
            line = ", ".join(f"{name} {index:+.2f}" for of, _, name, index in cabs_boards() if of == pattern)
            console.print(Text(f"CAB, {pattern}: {line}", style="dim"))
        console.print(Text(ABOUT_CAB, style="dim"))
