"""The aggregate over tasks in the terminal: a line for each mechanism, with what it does not cover."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.aggregates import aggregated
from cab.analysis.ranking import pattern_order
from cab.analysis.results import Results

if TYPE_CHECKING:
    from rich.console import Console

MIN_TASKS = 2
MOST_LINES = 12  # of one pattern
ABOUT = (
    "each score between none (0) and softmax (1) of its board, perplexity by its log, averaged within tasks, then "
    "over tasks; interval: bootstrap over the tasks, so that it says nothing of other seeds; rank: the range when any "
    "one task is left out; recipes and sizes are those of each board"
)


def print_aggregates(results: Results, console: "Console") -> None:
    """Print the aggregate of each pattern in which two tasks or more have scores; nothing where there is none."""
    scored = [board for board in results.boards if board.has_scores]
    tables = []
    for pattern in sorted({str(board.question["pattern"]) for board in scored}, key=pattern_order):
        aggregates = aggregated([board for board in scored if board.question["pattern"] == pattern])
        if not aggregates or aggregates[0].tasks < MIN_TASKS:
            continue
        title = f"\n{pattern}, over {aggregates[0].tasks + len(aggregates[0].missing)} tasks"
        table = Table(box=None, pad_edge=False, title=title, title_style="bold", title_justify="left")
        for head in ("rank", "mechanism", "aggregate", "95 % interval", "tasks", "missing"):
            table.add_column(head, no_wrap=True)
        for each in aggregates[:MOST_LINES]:
            low, high = each.ranks or (None, None)
            rank = "" if low is None else str(low) if low == high else f"{low}–{high}"
            interval = "" if each.low is None or each.high is None else f"[{each.low:.2f}, {each.high:.2f}]"
            cells = (rank, each.mechanism, f"{each.value:.2f}", interval, str(each.tasks), ", ".join(each.missing))
            table.add_row(*map(Text, cells))
        tables.append(table)
    for table in tables:
        console.print(table)
    if tables:
        console.print(Text(ABOUT, style="dim"))
