"""The aggregate over tasks, a line for each mechanism with what it does not cover; and CAB's own boards beside it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.aggregates import Aggregate, aggregated
from cab.analysis.leaderboard import Board
from cab.analysis.mean_ranks import TASKS_FOR_RANKS, MeanRanks, PairedDifference, mean_ranks, paired_differences
from cab.analysis.published import published_rows
from cab.analysis.ranking import pattern_order
from cab.analysis.results import Results

if TYPE_CHECKING:
    from rich.console import Console

MIN_TASKS = 2
MOST_LINES = 12  # of one pattern
ABOUT = (
    "each score between none (0) and softmax (1) of its board, perplexity by its log, averaged within tasks, then "
    "over tasks; interval: bootstrap over the tasks, and over the seeds where there are several; rank: the range when "
    "any one task is left out; recipes and sizes are those of each board; slots that do not measure attention are left "
    "out"
)
HEADS = ("rank", "mechanism", "aggregate", "95 % interval", "tasks", "what limits it")
PAIR_HEADS = ("mechanism", "difference", "95 % interval", "better on")
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
    """Write an aggregate under HEADS."""
    low, high = aggregate.ranks or (None, None)
    rank = "" if low is None else str(low) if low == high else f"{low}–{high}"
    interval = "" if aggregate.low is None or aggregate.high is None else f"[{aggregate.low:.2f}, {aggregate.high:.2f}]"
    value, tasks = f"{aggregate.value:.2f}", str(aggregate.tasks)
    return rank, aggregate.mechanism, value, interval, tasks, "; ".join(aggregate.remarks)


def pair_texts(pair: PairedDifference) -> tuple[str, str, str, str]:
    """Write a paired difference under PAIR_HEADS."""
    interval = "" if pair.low is None or pair.high is None else f"[{pair.low:+.2f}, {pair.high:+.2f}]"
    return pair.mechanism, f"{pair.value:+.2f}", interval, f"{pair.better} of {pair.tasks}"


def about_pairs(pairs: Sequence[PairedDifference]) -> str:
    """Say what the paired differences are."""
    return (
        f"the difference from {pairs[0].against} on each task, averaged, with Student's t interval over the "
        f"{pairs[0].tasks} tasks; mean ranks with a critical difference come with {TASKS_FOR_RANKS} tasks"
    )


def about_ranks(ranks: MeanRanks, tasks: int) -> str:
    """Say what the mean ranks are."""
    return (
        f"mean rank over {tasks} tasks; two that differ by less than {ranks.critical_difference:.2f} are not told "
        "apart (Nemenyi's test, 95 %)"
    )


def print_aggregates(results: Results, console: "Console") -> None:
    """Print the aggregate of each pattern in which two tasks or more have scores; nothing where there is none."""
    by_pattern = aggregates_by_pattern(results.boards)
    for pattern, aggregates in by_pattern.items():
        title = f"\n{pattern}, over {aggregates[0].tasks + len(aggregates[0].missing)} tasks"
        table = Table(box=None, pad_edge=False, title=title, title_style="bold", title_justify="left")
        for head in HEADS:
            table.add_column(head, no_wrap=head != HEADS[-1])
        for each in aggregates[:MOST_LINES]:
            table.add_row(*map(Text, texts(each)))
        console.print(table)
        _print_whether_told_apart(aggregates, console)
    if by_pattern:
        console.print(Text(ABOUT, style="dim"))
    if any(str(board.question["task"]).startswith("cab_") for board in results.boards):
        for pattern in by_pattern or dict.fromkeys(pattern for pattern, *_ in cabs_boards()):
            line = ", ".join(f"{name} {index:+.2f}" for of, _, name, index in cabs_boards() if of == pattern)
            console.print(Text(f"CAB, {pattern}: {line}", style="dim"))
        console.print(Text(ABOUT_CAB, style="dim"))


def _print_whether_told_apart(aggregates: Sequence[Aggregate], console: "Console") -> None:
    """Print the mean ranks with what is not told apart; below ten tasks, the paired differences."""
    ranks = mean_ranks(aggregates)
    if ranks is not None:
        console.print(Text(", ".join(f"{name} {rank:.1f}" for name, rank in ranks.ranks.items())))
        for group in ranks.groups:
            console.print(Text(f"not told apart: {', '.join(group)}"))
        console.print(Text(about_ranks(ranks, aggregates[0].tasks), style="dim"))
        return
    pairs = paired_differences(aggregates)[: MOST_LINES - 1]
    if pairs:
        table = Table(box=None, pad_edge=False)
        for head in PAIR_HEADS:
            table.add_column(head, no_wrap=True)
        for pair in pairs:
            table.add_row(*map(Text, pair_texts(pair)))
        console.print(table)
        console.print(Text(about_pairs(pairs), style="dim"))
