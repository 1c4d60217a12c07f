"""One mechanism against another in the terminal: a line for each case that both have, the ratio with its interval."""

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cab.analysis.comparison import comparisons
from cab.analysis.questions import QUESTION
from cab.analysis.results import Results
from cab.report.units import display_unit, format_number

if TYPE_CHECKING:
    from rich.console import Console

ABOUT = "ratios of medians that were not measured side by side; the interval adds both half-widths as squares"


def print_comparison(results: Results, first: str, second: str, console: "Console") -> None:
    """Print A against B, for the headline of each board that has both; `UsageError` where there is no such board."""
    pairs = comparisons(results.boards, first, second)
    questions = [pair.board.question for pair in pairs]
    names = [name for name in QUESTION if len({str(question[name]) for question in questions}) > 1]
    if all(question["n"] == question["m"] for question in questions) and "m" in names:
        names.remove("m")
    machines = ["machine"] if len({pair.board.machine for pair in pairs}) > 1 else []
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in (*names, *machines, "metric", first, second, "A / B", "95 % interval", ""):
        table.add_column(title, no_wrap=True, justify="right" if title in ("n", "A / B", first, second) else "left")
    for pair in pairs:
        above, below = pair.above.value or 0.0, pair.below.value or 0.0
        unit = display_unit(pair.metric.unit, [above, below])
        value, low, high = pair.ratio or (None, None, None)
        texts = [
            *(str(pair.board.question[name]) for name in names),
            *([pair.board.machine or "any"] if machines else []),
            pair.metric.name,
            f"{unit.text(above)} {unit.name}",
            f"{unit.text(below)} {unit.name}",
            "" if value is None else format_number(value),
            "" if low is None or high is None else f"[{format_number(low)}, {format_number(high)}]",
            pair.verdict or ("not told apart" if pair.metric.higher_is_better is not None else "no direction"),
        ]
        table.add_row(*map(Text, texts))
    console.print(table)
    verdicts = [pair.verdict for pair in pairs]
    counts = f"{verdicts.count('better')} better, {verdicts.count('worse')} worse, {verdicts.count('')} not told apart"
    console.print(
        Text(
            f"{first} against {second}: {counts} of {len(pairs)} {'case' if len(pairs) == 1 else 'cases'}. {ABOUT}",
            style="dim",
        )
    )
