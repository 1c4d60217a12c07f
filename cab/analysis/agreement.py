"""Whether patterns, and whether tasks, put the mechanisms into the same order: rank correlations of pairs of boards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import atanh, sqrt, tanh
from statistics import NormalDist
from typing import Any

from cab.analysis.leaderboard import Board
from cab.analysis.questions import QUESTION
from cab.analysis.ranking import pattern_order
from cab.intervals import LEVEL

FEWEST = 6  # mechanisms on both boards; of fewer no correlation is given
STRONGEST = 0.95  # correlation that an interval is given for


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of two boards' headlines over the mechanisms that both rank."""

    kind: str  # what differs: "pattern" or "task"
    first: str
    second: str
    where: str  # what both share
    count: int  # mechanisms
    value: float | None  # None where there are fewer than FEWEST, and where a board has them all equal
    low: float | None  # None, too, beyond STRONGEST
    high: float | None


def agreements(boards: Sequence[Board]) -> list[Agreement]:
    """Return the agreement of each two patterns on one question, and of each two tasks with scores in one pattern.

    Of a question's lengths the longest counts at which both have a board; of a task's questions the first at its
    longest length. Costs are compared on one machine alone. Scores depend on no machine; where those of two tasks come
    from several, `where` says so.
    """
    boards = [board for board in boards if board.headline.higher_is_better is not None]  # else nothing is ranked
    return [*_of_patterns(boards), *_of_tasks(boards)]


def spearman(pairs: Sequence[tuple[float, float]]) -> tuple[float, float | None, float | None] | None:
    """Return Spearman's rank correlation and its 95 % interval: Fisher's transform, Bonett and Wright's variance.

    (D. G. Bonett, T. A. Wright, Psychometrika 65, 2000, who advise against it beyond 0.95: there is no interval then.)
    At least four pairs are needed. None where all values of one side are equal: they have no order.
    """
    import pandas as pd

    ranks = pd.DataFrame(pairs).rank()
    if ranks.nunique().min() == 1:
        return None
    value = float(ranks[0].corr(ranks[1]))
    if abs(value) > STRONGEST:
        return value, None, None
    arm = NormalDist().inv_cdf((1 + LEVEL) / 2) * sqrt((1 + value**2 / 2) / (len(pairs) - 3))
    return value, tanh(atanh(value) - arm), tanh(atanh(value) + arm)


def _of_patterns(boards: Sequence[Board]) -> Iterator[Agreement]:
    shared = [name for name in QUESTION if name not in ("pattern", "n", "m")]
    groups: dict[tuple[Any, ...], list[Board]] = {}
    differing = [name for name in shared if len({str(board.question[name]) for board in boards}) > 1]
    differing = [name for name in differing if name not in ("task", "pass")]  # those are always named
    machines = {board.machine for board in boards}
    for board in boards:
        key = (*(board.question[name] for name in shared), board.machine, board.headline.name)
        groups.setdefault(key, []).append(board)
    for group in groups.values():
        patterns = sorted({str(board.question["pattern"]) for board in group}, key=pattern_order)
        for first, second in combinations(patterns, 2):
            of = {
                pattern: {(board.question["n"], board.question["m"]): board for board in group
                          if board.question["pattern"] == pattern}
                for pattern in (first, second)
            }  # fmt: skip
            both = sorted(set(of[first]) & set(of[second]))
            if both:
                a, b = of[first][both[-1]], of[second][both[-1]]
                question = a.question
                conditions = [f"{name} {question[name]}" for name in differing]
                conditions += [a.machine] if len(machines) > 1 else []
                words = [question["task"], question["pass"], *conditions, f"n = {question['n']:,}"]
                where = f"{', '.join(map(str, words))}: {a.headline.name}"
                yield _agreement("pattern", first, second, where, a, b)


def _of_tasks(boards: Sequence[Board]) -> Iterator[Agreement]:
    longest: dict[tuple[str, str], Board] = {}
    for board in boards:
        if board.has_scores:
            key = (str(board.question["pattern"]), str(board.question["task"]))
            if key not in longest or board.question["n"] > longest[key].question["n"]:
                longest[key] = board
    for pattern in sorted({pattern for pattern, _ in longest}, key=pattern_order):
        tasks = sorted(task for of, task in longest if of == pattern)
        for first, second in combinations(tasks, 2):
            a, b = longest[pattern, first], longest[pattern, second]
            where = f"{pattern}: {a.headline.name}, {b.headline.name}"
            if a.machine != b.machine or max(a.score_machines, b.score_machines) > 1:
                where += "; scores of several machines"
            yield _agreement("task", first, second, where, a, b)


def _agreement(kind: str, first: str, second: str, where: str, a: Board, b: Board) -> Agreement:
    above, below = _headlines(a), _headlines(b)
    pairs = [(above[name], below[name]) for name in above if name in below]
    correlation = spearman(pairs) if len(pairs) >= FEWEST else None
    return Agreement(kind, first, second, where, len(pairs), *(correlation or (None, None, None)))


def _headlines(board: Board) -> dict[str, float]:
    """Return mechanism -> the headline of its best ranked line, more being better."""
    sign = 1.0 if board.headline.higher_is_better else -1.0
    best: dict[str, float] = {}
    for line in board.lines:
        cell = line.cells.get(board.headline.name)
        if line.kind == "ranked" and cell is not None and cell.value is not None:
            best[line.mechanism] = max(best.get(line.mechanism, -float("inf")), sign * cell.value)
    return best
