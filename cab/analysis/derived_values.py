"""Values of lines that no meter measures, because they follow from other lengths, other columns or other boards."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cab.analysis.curves import COST_METRICS
from cab.analysis.efficiency_length import EfficiencyLength, efficiency_lengths
from cab.analysis.leaderboard import Board, Cell, Line, Metric
from cab.analysis.questions import QUESTION, records
from cab.analysis.ranking import rank_ranges
from cab.analysis.selection import Limit
from cab.analysis.settings import settings_of
from cab.contracts.case import canonical

if TYPE_CHECKING:
    from pandas import DataFrame

LineKey = tuple[str, str, str, str]  # as `Line.key`
MEMORY = ("peak_allocated", "peak_reserved", "peak_resident")  # the first of these that was measured counts
STATE = "decode_state"
CORRUPTED = "corrupted_error"
# settings that a state depends on; how a model is trained or timed changes none
_STATE_SETTINGS = ("task", "others", "kv_heads", "value_dim", "padding", "raster", "source_raster")
# what a curve of `cab.analysis.curves` shares with a board
_CURVE = ("pattern", "task", "level", "pass", "batch", "heads", "dim", "dtype", "device", "scale", "settings")


@dataclass(frozen=True)
class LongestLength:
    """The longest measured n at which a mechanism fits into memory."""

    n: int | None  # None where not even the shortest measured one fits
    shortest: int
    no_longer_measured: bool  # n is the longest measured one, so that a longer one may fit


@dataclass(frozen=True)
class RankByFlops:
    """The range of ranks by FLOPs, which have no interval: one rank but for equal FLOPs."""

    first: int
    last: int
    disagrees: bool  # with the rank by latency among the same lines: no rank is in both ranges
    counted: bool  # by PyTorch's counter, where the others may be of a closed form


@dataclass(frozen=True)
class ScoreAtEqualState:
    """What the state of a mechanism buys: the best score of the lines whose state is at most as large."""

    state: float  # bytes, after decoding as many tokens as the board is long
    best: Line
    score: Cell  # of the best


def softmax_line(board: Board) -> Line | None:
    """Return the line that costs are compared with: softmax, fused where it was measured."""
    lines = [line for line in board.lines if line.mechanism == "softmax"]
    return min(lines, key=lambda line: (line.backend != "sdpa", line.backend != "eager", line.label), default=None)


def compared_cost(board: Board) -> str | None:
    """Name the cost whose efficiency length a board shows: its headline, or its latency; None where it has neither."""
    if board.headline.name in COST_METRICS:
        return board.headline.name
    return "latency" if any(metric.name == "latency" for metric in board.metrics) else None


class EfficiencyLengths:
    """From which n the lines of boards cost less than softmax, found in the rows of all lengths.

    `machines` gives, by environment id, the name of the machine, as boards have it.
    """

    def __init__(self, rows: "DataFrame", machines: Mapping[str, str]) -> None:
        self._rows, self._machines = rows, machines
        self._by_metric: dict[str, dict[tuple[str, ...], EfficiencyLength]] = {}

    def of(self, line: Line, board: Board, metric: str) -> EfficiencyLength | None:
        """Return that of a line, against fused softmax where that was measured; None where there is none.

        It is of as many keys as queries: a board with another number of keys has none.
        """
        if board.question["n"] != board.question["m"]:
            return None
        if metric not in self._by_metric:
            self._by_metric[metric] = dict(self._lengths(metric))
        for against in ("softmax sdpa", "softmax eager"):
            identity = (line.mechanism, str(line.params), line.backend, against)
            key = (*identity, board.machine, *(str(board.question[name]) for name in _CURVE))
            if (length := self._by_metric[metric].get(key)) is not None:
                return length
        return None

    def _lengths(self, metric: str) -> Iterator[tuple[tuple[str, ...], EfficiencyLength]]:
        for row in records(efficiency_lengths(self._rows[self._rows["metric"] == metric])):
            identity = (row["mechanism"], str(json.loads(row["params"])), row["backend"], row["against"])
            machine = self._machines.get(str(row["environment_id"]), str(row["environment_id"]))
            key = (*identity, machine, *(str(row[name]) for name in _CURVE))
            yield key, EfficiencyLength(row["answer"], row["length"], row["low"], row["high"])


def boards_of_curve(board: Board, boards: Iterable[Board]) -> list[Board]:
    """Return the boards that differ from one in nothing but their length, n = m, in the order of their lengths."""
    same = [name for name in QUESTION if name not in ("n", "m")]
    found = [
        other
        for other in boards
        if other.machine == board.machine
        and other.question["n"] == other.question["m"]
        and all(other.question[name] == board.question[name] for name in same)
    ]
    return sorted(found, key=lambda other: int(other.question["n"]))


def longest_lengths(curve: Sequence[Board], budget: Limit | None = None) -> dict[LineKey, LongestLength]:
    """Return the longest measured n at which each line fits into a budget of memory.

    Without a budget: at which memory did not run out. `curve` holds boards that differ in their length alone.
    """
    fits_at: dict[LineKey, dict[int, bool]] = {}
    for board in curve:
        for line in board.lines:
            fits = _fits(line, board, budget)
            if fits is not None:
                fits_at.setdefault(line.key, {})[int(board.question["n"])] = fits
    lengths = {}
    for key, fits_by_length in fits_at.items():
        n = max((n for n, fits in fits_by_length.items() if fits), default=None)
        lengths[key] = LongestLength(n, min(fits_by_length), n == max(fits_by_length))
    return lengths


def _fits(line: Line, board: Board, budget: Limit | None) -> bool | None:
    """Say whether a line fits into memory; None where nothing says so.

    A measured peak decides. Out of memory counts where it is of the budget's metric, of a memory or of the headline: a
    meter that holds more than the mechanism does, such as the weights of all pairs, says nothing of the mechanism.
    """
    if budget is not None and (admitted := budget.admits(line)) is not None:
        return admitted
    names = {*MEMORY, board.headline.name, *([budget.metric] if budget else [])}
    cells = [cell for name, cell in line.cells.items() if name in names]
    if any(cell.status == "oom" for cell in cells):
        return False
    return True if budget is None and any(cell.value is not None for cell in cells) else None


def _value(line: Line, metric: str) -> float | None:
    cell = line.cells.get(metric)
    return None if cell is None else cell.value


def ranks_by_flops(board: Board) -> dict[LineKey, RankByFlops]:
    """Return the rank by FLOPs of each ranked line that has them; whether it disagrees is said of latency alone.

    Both ranks are among the lines that have FLOPs: one without them moves no other.
    """
    lines = [line for line in board.lines if line.rank is not None and _value(line, "flops") is not None]
    flops = [_value(line, "flops") or 0.0 for line in lines]
    by_latency: Sequence[tuple[int, int] | None] = [None] * len(lines)
    if board.headline.name == "latency":
        by_latency = rank_ranges([line.cells["latency"] for line in lines], board.headline)
    ordered, ranks = sorted(flops), {}
    for line, value, latency in zip(lines, flops, by_latency, strict=True):
        first, last = 1 + bisect_left(ordered, value), bisect_right(ordered, value)
        disagrees = latency is not None and (first > latency[1] or last < latency[0])
        ranks[line.key] = RankByFlops(first, last, disagrees, line.cells["flops"].counted)
    return ranks


def score_of(board: Board) -> Metric | None:
    """Return the first score of a board, which is its headline where another was not asked for; None without one."""
    return next((metric for metric in board.metrics if metric.is_score), None)


def scores_at_equal_state(board: Board, boards: Iterable[Board]) -> dict[LineKey, ScoreAtEqualState]:
    """Return what the state of each ranked line of a board of scores buys; nothing where fewer than two are known.

    The state is measured by decoding, and comes from the board that `states_of` names.
    """
    metric = score_of(board)
    if metric is None or metric.higher_is_better is None:
        return {}
    scored = {
        line.key: (line, cell)
        for line in board.lines
        if line.kind == "ranked" and (cell := line.cells.get(metric.name)) is not None and cell.value is not None
    }
    _, state_by_identity = states_of(board, boards)
    states = {key: state_by_identity[key[:3]] for key in scored if key[:3] in state_by_identity}
    if len(states) < 2:
        return {}
    sign = 1 if metric.higher_is_better else -1

    def quality(key: LineKey) -> float:
        return sign * float(scored[key][1].value or 0.0)

    found = {}
    for key, state in states.items():
        # its own line first: of equal scores it is the best
        fitting = [key, *(other for other in states if states[other] <= state and other != key)]
        best = max(fitting, key=quality)
        found[key] = ScoreAtEqualState(state, *scored[best])
    return found


def errors_over_softmax(board: Board, boards: Iterable[Board]) -> dict[LineKey, float]:
    """Return each line's error on corrupted inputs over softmax's on the same: ImageNet-C's corruption error.

    Both are means over the severities (arXiv 1903.12261, section 4.2). Softmax may stand on another board of `boards`
    with the same question, as where a filter left it out. Nothing where softmax has no such error, or none at all.
    """
    same = [board, *(other for other in boards if other.question == board.question)]
    softmax = (line.cells.get(CORRUPTED) for each in same if (line := softmax_line(each)) is not None)
    reference = next((cell.value for cell in softmax if cell is not None and cell.value), None)
    if reference is None:
        return {}
    errors = {line.key: cell.value for line in board.lines if (cell := line.cells.get(CORRUPTED)) is not None}
    return {key: value / reference for key, value in errors.items() if value is not None}


def states_of(board: Board, boards: Iterable[Board]) -> tuple[Board, dict[tuple[str, ...], float]]:
    """Return the board that the states of another are from, and its states by mechanism, hyper-parameters and backend.

    The states are all of one board, because the bytes of two batches are not comparable: of the board itself where it
    has two or more, or else of that of the same configuration which has most.
    """
    own = _states(board)
    if len(own) > 1:
        return board, own
    configuration = state_configuration(board)
    same = [other for other in boards if state_configuration(other) == configuration]
    return max([(board, own), *((other, _states(other)) for other in same)], key=lambda pair: len(pair[1]))


def state_configuration(board: Board) -> tuple[str, ...]:
    """Return what a state depends on beside the line, the level and the batch, which is the same for all lines."""
    fixed = ("task", "pattern", "n", "m", "heads", "dim", "dtype")
    return (*(str(board.question[name]) for name in fixed), _state_settings(settings_of(board)))


@cache
def _state_settings(settings: str) -> str:
    return canonical({name: value for name, value in json.loads(settings).items() if name in _STATE_SETTINGS})


def _states(board: Board) -> dict[tuple[str, ...], float]:
    """Return the state of each line by mechanism, hyper-parameters and backend."""
    return {line.key[:3]: state for line in board.lines if (state := _value(line, STATE)) is not None}
