"""Print the table of docs/cab.md that says which slots measure attention, of results/reference/cab-floors.

    python docs/scripts/floors.py [FOLDER]     # a store or a bundle of `cab run grid=cab_floors`
    python docs/scripts/floors.py --write      # into the page

`tests/docs/test_tables.py` holds the page to the bundle.
"""

import argparse
import sys
from math import sqrt
from pathlib import Path
from statistics import stdev, variance

from cab.analysis.leaderboard import Cell
from cab.analysis.ranking import leaderboard
from cab.analysis.slot_floors import slots_of
from cab.report.units import format_number
from cab.store import bundle

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "cab.md"
BUNDLE = ROOT / "results" / "reference" / "cab-floors"
HEAD = "| task and slot | metric | softmax | mean | none | apart | measures attention |"


def floors_table(folder: Path) -> str:
    """Return the table in Markdown, a row a slot.

    A value is the mean over the seeds, with their standard deviation. Softmax and `none` are `apart` by so many
    standard deviations, pooled over both; negative where `none` is the better.
    """
    rows, _ = bundle.read(folder)
    lines = [HEAD, "|" + " --- |" * (HEAD.count("|") - 1)]
    for _, of_slot in rows.groupby(["task", "pattern"]):
        (answer,) = slots_of(of_slot).values()
        (board,) = (board for board in leaderboard(of_slot) if board.has_scores)
        cells = {line.mechanism: line.cells[board.headline.name] for line in board.lines if line.grade != "floor"}
        name = f"`{board.question['task']}` {board.question['pattern']}"
        values = [_written(cells[mechanism]) for mechanism in ("softmax", "mean", "none")]
        sign = 1 if board.headline.higher_is_better else -1
        apart = sign * _apart(cells["softmax"], cells["none"])
        words = [name, board.headline.name, *values, f"{apart:.1f}", "yes" if answer else "**no**"]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def _written(cell: Cell) -> str:
    assert cell.value is not None
    return f"{format_number(cell.value)} ± {stdev(cell.seed_values):.2g}"


def _apart(one: Cell, other: Cell) -> float:
    assert one.value is not None and other.value is not None
    return (one.value - other.value) / sqrt((variance(one.seed_values) + variance(other.seed_values)) / 2)


def main() -> None:
    """Print the table, or put it in the place of the page's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLE)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    table = floors_table(arguments.folder)
    if not arguments.write:
        print(table)
        return
    before, head, after = PAGE.read_text().partition(HEAD)
    if not head:
        sys.exit(f"{PAGE.name} has no table that begins with {HEAD}")
    PAGE.write_text(before + table + after[after.index("\n\n") :])


if __name__ == "__main__":
    main()
