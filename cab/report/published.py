"""Published numbers in words, beside a board."""

from collections.abc import Iterator

from cab.analysis.leaderboard import Board
from cab.analysis.published import PublishedRow, comparisons
from cab.report.units import display_unit

FLOOR, CEILING = "published floor", "published ceiling"
ABOUT = "published: from results/published; data, model sizes and recipes are those of the sources; not ranked"


def published_lines(board: Board) -> Iterator[str]:
    """Yield a line for each source: its ceiling, its floor and its softmax, or the best number of all sources."""
    for comparison in comparisons(board):
        ceiling = _number_and_mechanism(comparison.ceiling)
        if comparison.floor is None:
            yield f"{comparison.source}: {CEILING} of all {ceiling}"
        else:
            softmax = "".join(f", softmax {_number(row)}" for row in comparison.softmax)
            floor = _number_and_mechanism(comparison.floor)
            yield f"{comparison.source}: {CEILING} {ceiling}, {FLOOR} {floor}{softmax}"


def _number_and_mechanism(row: PublishedRow) -> str:
    return f"{_number(row)} ({row['mechanism']})"


def _number(row: PublishedRow) -> str:
    value = float(row["value"])
    unit = display_unit(row["unit"], [value])
    return f"{unit.text(value)} {unit.name}".strip()
