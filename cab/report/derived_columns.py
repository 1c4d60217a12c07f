"""Columns of a board that follow from other lengths, columns or boards, as texts.

`cab report --columns latency,longest_n=64MiB` shows one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cab.analysis.derived_values import (
    MEMORY,
    STATE,
    LineKey,
    boards_of_curve,
    compared_cost,
    errors_over_softmax,
    longest_lengths,
    ranks_by_flops,
    score_of,
    scores_at_equal_state,
    states_of,
)
from cab.analysis.efficiency_length import EfficiencyLength
from cab.analysis.leaderboard import Board, Line
from cab.analysis.results import Results
from cab.analysis.selection import Limit, limits_of, metric_units
from cab.errors import UsageError
from cab.report import notes
from cab.report.units import display_unit, format_number


@dataclass(frozen=True)
class DerivedCell:
    """A value in the unit of the rows, for files and for sorting; and as people read it."""

    value: float | None
    text: str


Cells = dict[LineKey, DerivedCell]


@dataclass(frozen=True)
class DerivedColumn:
    """A column by its name on the command line."""

    name: str
    head: str  # with a line break where the terminal may break it
    about: str  # one line that says how to read it
    cells: Callable[[Board], Cells]
    helps: Callable[[Board, Cells], bool]  # whether it is shown where nobody asked for it


NAMES = (
    "efficiency_length",
    "longest_n",
    "rank_by_flops",
    "tokens_per_second",
    "state",
    "score_at_equal_state",
    "error_over_softmax",
)
_BUDGET = "longest_n"  # the column that takes one: longest_n=64MiB


def derived_columns(results: Results, asked: Sequence[str] = ()) -> dict[str, DerivedColumn]:
    """Return name -> column, of all NAMES. `asked` names columns, of which longest_n may carry a budget of memory.

    Without one its budget is the limit on memory of `results`. `UsageError` for a budget that cannot be read, and for
    one of another column.
    """
    budget = next((limit for limit in results.limits if limit.metric in MEMORY), None)
    for word in asked:
        name, equals, amount = word.partition("=")
        if equals and name == _BUDGET:
            budget = _budget(amount, results)
        elif equals:
            raise UsageError(f"--columns {word}: only {_BUDGET} takes a value, as in {_BUDGET}=64MiB")
    columns = (
        _efficiency_length(results),
        _longest_n(results, budget),
        _rank_by_flops(),
        _tokens_per_second(),
        *_states(results),
        _error(results),
    )
    return {column.name: column for column in columns}


def _budget(amount: str, results: Results) -> Limit:
    units = metric_units(results.related_rows)
    metric = next((name for name in MEMORY if name in units), None)
    if metric is None:
        raise UsageError(f"--columns {_BUDGET}={amount}: no memory was measured; add it with meters=[latency,memory]")
    try:
        (limit,) = limits_of([f"{metric}={amount}"], units)
    except UsageError as error:
        text = str(error).replace(f"--max {metric}=", f"--columns {_BUDGET}=").replace("METRIC=", f"{_BUDGET}=")
        raise UsageError(text) from None
    return limit


def _efficiency_length(results: Results) -> DerivedColumn:
    def cells(board: Board) -> Cells:
        cost, found = compared_cost(board), {}
        for line in board.lines:
            length = results.all_efficiency_lengths.of(line, board, cost) if cost else None
            if length is not None:
                value = length.high if length.answer == "already" else length.length
                found[line.key] = DerivedCell(value, efficiency_length_text(length))
        return found

    about = (
        "wins from n: its cost (the column ranked by, or its latency) lies below softmax's from there on, with the "
        "interval; ≤: at every measured length; >: not at the longest measured length; ?: not certain"
    )
    return DerivedColumn("efficiency_length", "wins\nfrom n", about, cells, lambda board, found: bool(found))


def efficiency_length_text(length: EfficiencyLength) -> str:
    """Write from which n a cost lies below softmax's: `≤256`, `>4,096 ?` or `871 [700, ?]`."""
    if length.answer == "already":
        return f"≤{length.high:,.0f}" + ("" if length.low is None else " ?")
    if length.answer == "never":
        return f">{length.low:,.0f}" + ("" if length.high is None else " ?")
    ends = ", ".join("?" if end is None else f"{end:,.0f}" for end in (length.low, length.high))
    return f"{length.length:,.0f} [{ends}]"


def _longest_n(results: Results, budget: Limit | None) -> DerivedColumn:
    def cells(board: Board) -> Cells:
        if board.question["n"] != board.question["m"]:
            return {}
        found = {}
        for key, longest in longest_lengths(boards_of_curve(board, results.related_boards), budget).items():
            if longest.n is None:
                found[key] = DerivedCell(None, f"<{longest.shortest:,}")
            else:
                found[key] = DerivedCell(longest.n, ("≥" if longest.no_longer_measured else "") + f"{longest.n:,}")
        return found

    def helps(board: Board, found: Cells) -> bool:
        """Say whether some measured n does not fit."""
        shown = [found[line.key] for line in board.lines if line.key in found]
        return any(not cell.text.startswith("≥") for cell in shown)

    within = f"in {budget.text}" if budget else "in memory"
    limit = f"at which {budget.metric.replace('_', ' ')} is at most {budget.text}" if budget else "in memory"
    about = f"longest n: the longest measured n {limit}; ≥: no longer one was measured; <: not even the shortest fits"
    return DerivedColumn("longest_n", f"longest n\n{within}", about, cells, helps)


def _rank_by_flops() -> DerivedColumn:
    def cells(board: Board) -> Cells:
        found = {}
        for key, rank in ranks_by_flops(board).items():
            text = f"{rank.first}" if rank.first == rank.last else f"{rank.first}–{rank.last}"
            text += notes.MARKS["counted"] if rank.counted else ""
            found[key] = DerivedCell(rank.first, text + (" ≠" if rank.disagrees else ""))
        return found

    def helps(board: Board, found: Cells) -> bool:
        return any(cell.text.endswith("≠") for cell in found.values())

    about = (
        "rank by FLOPs, among the lines that have them: ≠ where no rank is in both its range and that of the rank by "
        "latency among the same; *: counted, not of a closed form"
    )
    return DerivedColumn("rank_by_flops", "rank by\nFLOPs", about, cells, helps)


def _tokens_per_second() -> DerivedColumn:
    def cells(board: Board) -> Cells:
        if board.question["pass"] != "decode":
            return {}
        values = {line.key: line.cells["latency"].value for line in board.lines if "latency" in line.cells}
        rates = {key: int(board.question["batch"]) / value for key, value in values.items() if value}
        return {key: DerivedCell(rate, f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}") for key, rate in rates.items()}

    about = "tokens/s: decoded tokens a second, of the whole batch; the batch by the latency, whose interval holds"
    return DerivedColumn("tokens_per_second", "tokens/s", about, cells, lambda board, found: bool(found))


def _states(results: Results) -> tuple[DerivedColumn, DerivedColumn]:
    def states(board: Board) -> Cells:
        found = scores_at_equal_state(board, results.related_boards)
        unit = display_unit("bytes", [each.state for each in found.values()])
        return {key: DerivedCell(each.state, f"{unit.text(each.state)} {unit.name}") for key, each in found.items()}

    def scores(board: Board) -> Cells:
        metric, lines = score_of(board), {line.key: line for line in board.lines}
        found = {}
        for key, each in scores_at_equal_state(board, results.related_boards).items():
            assert metric is not None and each.score.value is not None
            unit = display_unit(metric.unit, [each.score.value])
            other = "" if each.best is lines[key] else f" {each.best.label}"
            found[key] = DerivedCell(each.score.value, f"{unit.text(each.score.value)} {unit.name}".strip() + other)
        return found

    about_state = "state: what is kept while decoding, after n tokens" + _where_decoded(results)
    about = "at equal state: the best score of the lines whose state is at most as large, and whose it is"
    return (
        DerivedColumn("state", "state", about_state, states, lambda board, found: bool(found)),
        DerivedColumn("score_at_equal_state", "at equal\nstate", about, scores, lambda board, found: bool(found)),
    )


def _where_decoded(results: Results) -> str:
    """Name the batches and levels of the boards that states come from; nothing where there are none."""
    scored = [board for board in results.boards if score_of(board) is not None]
    if not scored:
        return ""
    decoded = [each for each in results.related_boards if any(metric.name == STATE for metric in each.metrics)]
    found = set()
    for board in scored:
        source, states = states_of(board, decoded)
        if len(states) > 1:
            found.add((int(source.question["batch"]), str(source.question["level"])))
    return "".join(f"; of batch {batch}, level {level}" for batch, level in sorted(found))


def _error(results: Results) -> DerivedColumn:
    def cells(board: Board) -> Cells:
        errors = errors_over_softmax(board, results.related_boards)
        return {key: DerivedCell(ratio, f"{format_number(ratio)}×") for key, ratio in errors.items()}

    about = "error over softmax's: on corrupted inputs (corrupted error), by softmax's on the same corruptions"
    return DerivedColumn(
        "error_over_softmax", "error over\nsoftmax's", about, cells, lambda board, found: len(found) > 1
    )


def line_cells(column: DerivedColumn, board: Board, lines: Sequence[Line]) -> list[DerivedCell]:
    """Return a column's cell of each line, empty where there is none."""
    found = column.cells(board)
    return [found.get(line.key, DerivedCell(None, "")) for line in lines]
