"""One mechanism against another in the terminal: a line for each case that both have, the ratio with its interval."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.leaderboard import Board, Line
from cab.analysis.questions import QUESTION
from cab.analysis.results import Results
from cab.errors import unknown
from cab.report.summary import ratio
from cab.report.units import display_unit, format_number

if TYPE_CHECKING:
    from rich.console import Console

ABOUT = "ratios of medians that were not measured side by side; the interval adds both half-widths as squares"


def print_comparison(results: Results, first: str, second: str, console: "Console") -> None:
    """Print A against B, for the headline of each board that has both; `UsageError` where a label is on no board."""
    labels = {line.label for board in results.boards for line in board.lines}
    for label in (first, second):
        if label not in labels:
            raise unknown("mechanism", label, labels, "Labels are those of cab report --full.")
    pairs = list(_pairs(results.boards, first, second))
    names = [name for name in QUESTION if len({str(board.question[name]) for board, _, _ in pairs}) > 1 and name != "m"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (*names, "metric", first, second, "A / B", "95 % interval", ""):
        table.add_column(title, no_wrap=True, justify="right" if title in ("n", "A / B", first, second) else "left")
    verdicts = []
    for board, a, b in pairs:
        metric = board.headline
        above, below = a.cells[metric.name], b.cells[metric.name]
        unit = display_unit(metric.unit, [above.value, below.value])
        times = ratio(above, below)
        verdict = ""
        if not above.overlaps(below) and above.value is not None and below.value is not None:
            verdict = "better" if (above.value > below.value) == bool(metric.higher_is_better) else "worse"
        verdicts.append(verdict)
        value, low, high = times or (None, None, None)
        texts = [
            *(str(board.question[name]) for name in names),
            metric.name,
            f"{unit.text(above.value or 0.0)} {unit.name}",
            f"{unit.text(below.value or 0.0)} {unit.name}",
            "" if value is None else format_number(value),
            "" if low is None or high is None else f"[{format_number(low)}, {format_number(high)}]",
            verdict or "not told apart",
        ]
        table.add_row(*map(Text, texts))
    console.print(table)
    counts = f"{verdicts.count('better')} better, {verdicts.count('worse')} worse, {verdicts.count('')} not told apart"
    console.print(Text(f"{first} against {second}: {counts} of {len(pairs)} cases. {ABOUT}", style="dim"))


def _pairs(boards: list[Board], first: str, second: str) -> Iterator[tuple[Board, Line, Line]]:
    """Yield the boards on which both have a value of the headline."""
    for board in boards:
        by_label = {line.label: line for line in board.lines}
        lines = [by_label.get(label) for label in (first, second)]
        a, b = lines
        if a is None or b is None:
            continue
        cells = [line.cells.get(board.headline.name) for line in (a, b)]
        if all(cell is not None and cell.value is not None for cell in cells):
            yield board, a, b
