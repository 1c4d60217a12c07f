"""Published numbers of a task, from results/published. They stand beside a board and are never ranked with its lines.

Their data, model sizes and recipes are those of their sources.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cab.analysis.leaderboard import Board
from cab.paths import beside

MIN_COMPARED = 4  # mechanisms that a source must give a number of, to have a ceiling and a floor
PublishedRow = dict[str, str]  # benchmark, source, mechanism, pattern, task, metric, value, unit, note


@dataclass(frozen=True)
class Comparison:
    """What one source published of a task."""

    source: str
    ceiling: PublishedRow  # its best mechanism
    floor: PublishedRow | None  # its worst; None where the source compares no mechanisms
    softmax: list[PublishedRow]


@lru_cache
def published_rows() -> tuple[PublishedRow, ...]:
    """Return every published number."""
    rows: list[PublishedRow] = []
    for path in sorted((beside("results") / "published").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            rows += csv.DictReader(file)
    return tuple(rows)


def published_for(board: Board) -> list[PublishedRow]:
    """Return the published numbers of a board's task, pattern and headline, the best first."""
    question, headline = board.question, board.headline
    key = (question["task"], question["pattern"], headline.name, headline.unit)
    rows = [row for row in published_rows() if (row["task"], row["pattern"], row["metric"], row["unit"]) == key]
    return sorted(rows, key=lambda row: float(row["value"]), reverse=headline.higher_is_better is not False)


def published_for_all(boards: Sequence[Board]) -> list[PublishedRow]:
    """Return the published numbers of some boards, each once."""
    return list({tuple(row.values()): row for board in boards for row in published_for(board)}.values())


def comparisons(board: Board) -> list[Comparison]:
    """Return what each source that compares mechanisms published of a board's task.

    The best number of all follows without a floor where its source compares no mechanisms.
    """
    rows = published_for(board)
    by_source: dict[str, list[PublishedRow]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    result = [
        Comparison(source, own[0], own[-1], [row for row in own if row["mechanism"] == "softmax"])
        for source, own in by_source.items()
        if len(own) >= MIN_COMPARED
    ]
    if rows and len(by_source[rows[0]["source"]]) < MIN_COMPARED:
        result.append(Comparison(rows[0]["source"], rows[0], None, []))
    return result
