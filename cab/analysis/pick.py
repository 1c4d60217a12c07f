"""Which mechanism to take: the lawful ones that fit within limits at one length, by score where one was measured.

A cost at a length that was not measured is interpolated between the two measured lengths around it, on the logs of
both. Nothing is extrapolated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

from cab.analysis.aggregates import counted, mean_scores
from cab.analysis.leaderboard import Board, Cell, Line, Metric, one_a_question
from cab.analysis.questions import QUESTION
from cab.analysis.ranking import leaderboard
from cab.analysis.selection import Limit, selected
from cab.analysis.settings import differing_settings, settings_of
from cab.analysis.slot_floors import measures_attention
from cab.errors import UsageError

if TYPE_CHECKING:
    from pandas import DataFrame

# what is taken where nothing is asked for, and the results hold several values: the reference's conditions
CONDITIONS = {
    "level": "attend", "pass": "forward", "batch": "2", "heads": "4", "dim": "64", "dtype": "float32", "device": "cpu",
}  # fmt: skip
# keys that take one value, because candidates are compared under one condition
SINGLE_VALUED = ("pattern", "seq_len", "source_len", *CONDITIONS)
UNKNOWN_SCORE = "quality not measured"


@dataclass
class Candidate:
    """A mechanism at the length that was asked for."""

    label: str
    line: Line
    costs: dict[str, Cell]
    interpolated: bool
    score: Cell | None = None
    why_not: str = ""  # it fell out; "" where it fits
    group: int = 0  # no two candidates of one group can be told apart
    scored_as: str = ""  # the hyper-parameters that the score is of, where they are others than those of the costs


@dataclass
class Pick:
    """The candidates, the best first, and those that fell out."""

    conditions: dict[str, str]
    n: int
    machine: str
    metric: Metric | None  # that candidates are ordered by: the score's, or the cost's
    cost: Metric
    fitting: list[Candidate] = field(default_factory=list)
    out: list[Candidate] = field(default_factory=list)
    quality: str = UNKNOWN_SCORE  # where the scores come from
    left_out: list[str] = field(default_factory=list)  # what was measured under other settings, in words
    scored_on: list[str] = field(default_factory=list)  # tasks


def pick(
    rows: "DataFrame",
    environments: "DataFrame",
    filters: Mapping[str, Sequence[str]],
    limits: Sequence[Limit],
) -> Pick:
    """Choose among the mechanisms of some rows.

    `filters` must give one pattern and one seq_len; `task` names the task whose score counts. `UsageError` where one of
    SINGLE_VALUED has several values, and where the results hold no cost in that pattern under these conditions.
    """
    for key in ("pattern", "seq_len"):
        if key not in filters:
            raise UsageError(f"cab pick needs one {key}, as in: cab pick pattern=CC seq_len=2048")
    for key in SINGLE_VALUED:
        if len(values := filters.get(key, ())) > 1:
            raise UsageError(f"{key}={','.join(values)}: cab pick takes one {key} at a time, as in {key}={values[0]}")
    n, pattern = _length(filters["seq_len"][0]), filters["pattern"][0]
    of_costs = {key: values for key, values in filters.items() if key not in ("seq_len", "task")}
    costs = selected(rows[rows["step"].isna()], of_costs)
    costs = costs[costs["pass"] != "train"] if "pass" not in filters else costs
    if costs.empty:
        raise UsageError(f"no cost was measured in {pattern}: cab run pattern={pattern} task=speed seq_len={n}")
    conditions = {}
    for name, usual in CONDITIONS.items():
        present = costs[name].astype("string")
        values = list(filters.get(name, ()))
        value = values[0] if values else usual if (present == usual).any() else str(present.mode().iloc[0])
        conditions[name] = value
        costs = costs[present == value]
    boards = [board for board in leaderboard(costs, environments) if not board.headline.is_score]
    if not boards:
        raise UsageError(f"no cost was measured in {pattern} under {_words(conditions)}; give other conditions")
    machine = max(boards, key=lambda board: (len(board.lines), board.machine)).machine
    boards, left_out = _of_one_kind([b for b in boards if b.machine == machine], "source_len" in filters)
    cost = boards[0].headline
    result = Pick(conditions, n, machine, cost, cost, left_out=left_out)
    candidates = _candidates(boards, n, cost)
    scores = _scores(rows, environments, pattern, filters.get("task", ()), result)
    for candidate in candidates:
        line = candidate.line
        scored = scores.get((line.mechanism, str(line.params))) or scores.get((line.mechanism, ""))
        if scored is not None:
            candidate.score = scored.cell
            candidate.scored_as = _other_params(scored.params or line.params, line.params)
        candidate.why_not = candidate.why_not or _why_not(candidate, limits, cost, bool(scores))
    result.out = sorted((c for c in candidates if c.why_not), key=lambda c: (c.why_not, c.label))
    result.fitting = _ordered([c for c in candidates if not c.why_not], result)
    return result


def _length(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"seq_len={text}: give a whole number, as in seq_len=2048") from None


def _words(conditions: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in conditions.items())


def _of_one_kind(boards: Sequence[Board], any_sources: bool) -> tuple[list[Board], list[str]]:
    """Return boards that differ in nothing but n, in its order, and in words what the others are.

    Of several kinds that with the most lines is taken. Without `any_sources` there are as many keys as queries, where
    that was measured.
    """
    equal = [board for board in boards if board.question["n"] == board.question["m"]]
    kept = equal if equal and not any_sources else list(boards)
    fixed = [name for name in QUESTION if name not in (("n",) if any_sources else ("n", "m"))]
    kinds: dict[str, list[Board]] = {}
    for board in kept:
        kinds.setdefault(str([board.question[name] for name in fixed]), []).append(board)
    chosen = max(kinds.values(), key=lambda of: sum(len(board.lines) for board in of))
    left_out = [_difference(of[0], chosen[0], fixed) for of in kinds.values() if of is not chosen]
    if len(kept) < len(boards):
        left_out.append("another number of keys than of queries: give source_len=")
    return sorted(chosen, key=lambda board: int(board.question["n"])), left_out


def _difference(board: Board, other: Board, names: Sequence[str]) -> str:
    """Say what a board has that another one has not, as on the command line."""
    differing = [name for name in names if name != "settings" and board.question[name] != other.question[name]]
    words = [f"{name}={board.question[name]}" for name in differing]
    settings = differing_settings([other, board])[settings_of(board)]
    return " ".join([*words, *(f"{name}={value}" for name, value in settings.items())]) or "the usual settings"


def _other_params(scored: Mapping[str, Any], costed: Mapping[str, Any]) -> str:
    """Name the hyper-parameters of a score that are not those of the costs."""
    names = dict.fromkeys([*scored, *costed])
    return " ".join(f"{name}={scored.get(name)}" for name in names if scored.get(name) != costed.get(name))


def _candidates(boards: Sequence[Board], n: int, cost: Metric) -> list[Candidate]:
    """Return a candidate for each ranked line on any of the boards, which are in the order of their lengths."""
    lines: dict[tuple[Any, ...], dict[int, Line]] = {}
    for board in boards:
        for line in board.lines:
            if line.kind == "control":
                continue
            lines.setdefault((line.mechanism, str(line.params), line.backend), {})[int(board.question["n"])] = line
    candidates = []
    for by_length in lines.values():
        line = by_length.get(n) or by_length[max(by_length)]
        why_not = "leaky: its outputs depend on tokens that the pattern forbids" if line.kind == "leaky" else ""
        if n in by_length:
            candidates.append(Candidate(line.label, line, line.cells, False, why_not=why_not))
            continue
        measured = [length for length, each in by_length.items() if not _failure(each.cells, cost)]
        below = max((each for each in measured if each < n), default=None)
        above = min((each for each in measured if each > n), default=None)
        if not measured:
            candidates.append(Candidate(line.label, line, {}, False, why_not=why_not or _failure(line.cells, cost)))
        elif below is None or above is None:
            elsewhere = f"measured from {min(measured):,} to {max(measured):,} alone"
            candidates.append(Candidate(line.label, line, {}, False, why_not=why_not or elsewhere))
        else:
            costs = _interpolated(by_length[below], by_length[above], below, above, n)
            candidates.append(Candidate(line.label, line, costs, True, why_not=why_not))
    return candidates


def _interpolated(first: Line, second: Line, below: int, above: int, n: int) -> dict[str, Cell]:
    """Return the costs between two lengths, on the logs; a metric without a positive value at both ends has none."""
    share = (log(n) - log(below)) / (log(above) - log(below))

    def between(a: float, b: float) -> float:
        return exp((1 - share) * log(a) + share * log(b))

    cells = {}
    for name in first.cells.keys() & second.cells.keys():
        a, b = first.cells[name], second.cells[name]
        if not a.value or not b.value or min(*a.interval, *b.interval) <= 0:
            continue
        low: float | None = between(a.interval[0], b.interval[0])
        high: float | None = between(a.interval[1], b.interval[1])
        if a.low is None and b.low is None:  # both are exact
            low, high = None, None
        unknown = a.interval_unknown or b.interval_unknown
        value = between(a.value, b.value)
        cells[name] = replace(a, value=value, low=low, high=high, reasons=[], mark="", interval_unknown=unknown)
    return cells


def _failure(cells: Mapping[str, Cell], cost: Metric) -> str:
    """Return why there is no value of a cost, or nothing where there is one."""
    cell = cells.get(cost.name)
    if cell is not None and cell.value is not None:
        return ""
    return f"{cell.status}: {cell.reasons[0].partition(': ')[2]}" if cell and cell.reasons else f"no {cost.name}"


def _why_not(candidate: Candidate, limits: Sequence[Limit], cost: Metric, has_scores: bool) -> str:
    if failure := _failure(candidate.costs, cost):
        return failure
    for limit in limits:
        cell = candidate.costs.get(limit.metric)
        if cell is None or cell.value is None:
            return f"{limit.metric} not measured"
        if cell.value > limit.value:
            return f"{limit.metric} above {limit.text}"
    if has_scores and candidate.score is None:
        return UNKNOWN_SCORE
    return ""


class _Scored(NamedTuple):
    """A score, and the hyper-parameters that it is of; None where it is a mean over several."""

    cell: Cell
    params: Mapping[str, Any] | None


def _scores(
    rows: "DataFrame", environments: "DataFrame", pattern: str, tasks: Sequence[str], result: Pick
) -> dict[tuple[str, str], _Scored]:
    """Return (mechanism, params) -> score; params "" for a mechanism with whatever hyper-parameters scored best."""
    trained = rows[(rows["pattern"] == pattern) & rows["step"].isna()]
    boards = one_a_question(board for board in leaderboard(trained, environments) if board.has_scores)
    boards = [board for board in boards if measures_attention(board) is not False]
    boards = [board for board in boards if not tasks or board.question["task"] in tasks]
    boards = [board for board in boards if _tells_apart(board)]
    if not boards:
        return {}
    if len(boards) > 1:
        averaged = counted(boards)
        if not averaged:
            names = ", ".join(sorted({str(board.question["task"]) for board in boards}))
            result.quality = (
                f"not averaged over {len(boards)} boards, because none has softmax and a worse `none`: "
                f"name one task, as in task=NAME, of {names}"
            )
            return {}
        result.quality = (
            f"mean over {len(averaged)} boards between the floor (0) and softmax (1), of the best hyper-parameters"
        )
        result.metric = Metric("aggregate", "", True, True)
        result.scored_on = [*dict.fromkeys(str(board.question["task"]) for board in averaged)]
        return {(mechanism, ""): _Scored(cell, None) for mechanism, cell in mean_scores(averaged).items()}
    (board,) = boards
    result.scored_on = [str(board.question["task"])]
    result.metric, result.quality = board.headline, f"{board.question['task']} at n = {board.question['n']:,}"
    scores: dict[tuple[str, str], _Scored] = {}
    for line in board.lines:
        cell = line.cells.get(board.headline.name)
        if line.kind == "ranked" and cell is not None and cell.value is not None:
            scores[line.mechanism, str(line.params)] = _Scored(cell, line.params)
            scores.setdefault((line.mechanism, ""), _Scored(cell, line.params))
    return scores


def _tells_apart(board: Board) -> bool:
    """Whether a mechanism has a score; softmax's and the controls' are what others are held against."""
    ranked = [line for line in board.lines if line.kind == "ranked" and line.mechanism != "softmax"]
    return any(board.headline.name in line.cells for line in ranked)


def _ordered(candidates: list[Candidate], result: Pick) -> list[Candidate]:
    """Order by score, then by cost. No two candidates of a group can be told apart by the score.

    Within a group the cheaper one comes first; without scores, groups are those of equal cost.
    """
    metric, cost = result.metric, result.cost
    by_cost = sorted(candidates, key=lambda c: c.costs[cost.name].value or 0.0)
    if metric is None or not metric.is_score:
        return _grouped(by_cost, lambda c: c.costs[cost.name])
    sign = -1 if metric.higher_is_better else 1

    def score(candidate: Candidate) -> Cell:
        assert candidate.score is not None
        return candidate.score

    grouped = _grouped(sorted(by_cost, key=lambda c: sign * (score(c).value or 0.0)), score)
    return sorted(grouped, key=lambda c: (c.group, c.costs[cost.name].value or 0.0))


def _grouped(ordered: list[Candidate], cell_of: Callable[[Candidate], Cell]) -> list[Candidate]:
    """Number the groups: a candidate whose interval does not overlap all those of a group begins the next one."""
    members: list[Candidate] = []
    group = 0
    for candidate in ordered:
        if not all(cell_of(candidate).overlaps(cell_of(member)) for member in members):
            members, group = [], group + 1
        members.append(candidate)
        candidate.group = group
    return ordered
