"""Print the tables of docs/cab.md: which slots measure attention, and what mechanisms learn in those that do.

    python docs/scripts/cab_tables.py            # of results/reference/cab-floors and cab-quick
    python docs/scripts/cab_tables.py --write    # into the page

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
REFERENCE = ROOT / "results" / "reference"
HEAD = "| task and slot | metric | softmax | mean | none | apart | measures attention |"
HEAD_OF_SCORES = "| mechanism | "
CONTROLS = ("mean", "none")


def floors_table(folder: Path = REFERENCE / "cab-floors") -> str:
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


def scores_table(folder: Path = REFERENCE / "cab-quick") -> str:
    """Return what each mechanism scores in each slot, a row a mechanism, softmax first and the controls last.

    A score has the longer arm of its interval, which covers the test examples.
    """
    rows, _ = bundle.read(folder)
    boards = [board for board in leaderboard(rows) if board.has_scores]
    heads = [f"`{board.question['task']}` {board.question['pattern']}, {board.headline.name}" for board in boards]
    cells = {
        (line.mechanism, i): line.cells[board.headline.name]
        for i, board in enumerate(boards)
        for line in board.lines
        if line.grade != "floor"
    }
    names = sorted({mechanism for mechanism, _ in cells} - {"softmax", *CONTROLS})
    lines = [f"{HEAD_OF_SCORES}{' | '.join(heads)} |", f"| --- |{' ---: |' * len(heads)}"]
    for name in ("softmax", *names, *CONTROLS):
        texts = [_with_arm(cells[name, i]) if (name, i) in cells else "" for i in range(len(boards))]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _with_arm(cell: Cell) -> str:
    assert cell.value is not None
    low, high = cell.interval
    return f"{format_number(cell.value)} ± {max(cell.value - low, high - cell.value):.2g}"


def _written(cell: Cell) -> str:
    assert cell.value is not None
    return f"{format_number(cell.value)} ± {stdev(cell.seed_values):.2g}"


def _apart(one: Cell, other: Cell) -> float:
    assert one.value is not None and other.value is not None
    return (one.value - other.value) / sqrt((variance(one.seed_values) + variance(other.seed_values)) / 2)


def main() -> None:
    """Print the table, or put it in the place of the page's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    for head, table in ((HEAD, floors_table()), (HEAD_OF_SCORES, scores_table())):
        if not arguments.write:
            print(table, end="\n\n")
            continue
        before, found, after = PAGE.read_text().partition(head)
        if not found:
            sys.exit(f"{PAGE.name} has no table that begins with {head}")
        PAGE.write_text(before + table + after[after.index("\n\n") :])


if __name__ == "__main__":
    main()
