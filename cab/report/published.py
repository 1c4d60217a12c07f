"""What was published of a task, as data in results/published: said beside a board, never mixed with what was measured.

Data, sizes and recipes are those of the sources, so that the numbers are marks to look at and nothing to rank by.
"""

import csv
from collections.abc import Iterator, Sequence
from functools import lru_cache
from html import escape

from cab.analysis.leaderboard import Board
from cab.analysis.units import scale
from cab.paths import beside

FLOOR, CEILING = "published floor", "published ceiling"
COMPARES = 4  # numbers of one task that make a source a comparison
ABOUT = "published: read from results/published, of the sources' own data, sizes and recipes; not ranked"


@lru_cache
def numbers() -> tuple[dict[str, str], ...]:
    """Read every published number: benchmark, source, mechanism, pattern, task, metric, value, unit, note."""
    found: list[dict[str, str]] = []
    for path in sorted((beside("results") / "published").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found += csv.DictReader(file)
    return tuple(found)


def of(board: Board) -> list[dict[str, str]]:
    """Return what was published of a board's task, pattern and headline, the best first."""
    question, metric = board.question, board.headline
    asked = {"task": question["task"], "pattern": question["pattern"], "metric": metric.name, "unit": metric.unit}
    fitting = [row for row in numbers() if all(row[name] == value for name, value in asked.items())]
    return sorted(fitting, key=lambda row: float(row["value"]), reverse=metric.higher_is_better is not False)


def lines(board: Board) -> Iterator[str]:
    """Yield a line for each source that compares mechanisms, its ceiling, floor and softmax; and the best of all."""
    rows, by_source = of(board), dict[str, list[dict[str, str]]]()
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    for source, own in by_source.items():
        if len(own) >= COMPARES:
            softmax = [f", softmax {_number(row)}" for row in own if row["mechanism"] == "softmax"]
            yield f"{source}: {CEILING} {_named(own[0])}, {FLOOR} {_named(own[-1])}{''.join(softmax)}"
    if rows and len(by_source[rows[0]["source"]]) < COMPARES:
        yield f"{rows[0]['source']}: {CEILING} of all {_named(rows[0])}"


def html(boards: Sequence[Board]) -> Iterator[str]:
    """Yield the page's section: every published number of the tasks that were measured."""
    found = {tuple(row.values()): row for board in boards for row in of(board)}
    if not found:
        return
    yield f"<h2>Published</h2><p class='note'>{escape(ABOUT)}.</p><div class='scroll'><table><thead><tr>"
    yield "".join(f"<th scope='col'>{name}</th>" for name in next(iter(found.values())))
    yield "</tr></thead><tbody>"
    for row in found.values():
        yield "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row.values()) + "</tr>"
    yield "</tbody></table></div>"


def _named(row: dict[str, str]) -> str:
    return f"{_number(row)} ({row['mechanism']})"


def _number(row: dict[str, str]) -> str:
    value = float(row["value"])
    unit = scale(row["unit"], [value])
    return f"{unit.text(value)} {unit.unit}".strip()
