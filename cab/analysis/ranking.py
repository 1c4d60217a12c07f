"""Leaderboards: rows of one question put into lines, marked and ranked."""

import json
from typing import TYPE_CHECKING, Any

from cab.analysis.leaderboard import Board, Cell, Line, Metric
from cab.analysis.questions import QUESTION, Row, questions
from cab.analysis.seeds import over_seeds
from cab.analysis.units import OF_THE_COST
from cab.contracts.case import STATUSES, worst
from cab.errors import UsageError
from cab.plugins.cards import Card
from cab.plugins.registry import card, cards_of

if TYPE_CHECKING:
    from pandas import DataFrame

FLOORS = ("none",)
PATTERNS = ("NS", "CS", "NC", "CC")
KINDS = ("ranked", "floor", "leaky")


def leaderboard(rows: "DataFrame", environments: "DataFrame | None" = None) -> list[Board]:
    """Return a board for each question and machine, in the order of tasks, patterns and lengths."""
    costs = _costs()
    boards = [_board(*answered, costs) for answered in questions(rows, environments)]
    return sorted(boards, key=_place)


def _costs() -> dict[str, int]:
    """Return the place in its meter of what is measured of any mechanism; other metrics are a task's own scores."""
    cards = (card for card in cards_of("meter").values() if isinstance(card, Card))
    return {name: place for card in cards for place, name in enumerate(card.facts["metrics"])}


def _board(question: dict[str, Any], machine: str, rows: list[Row], sources: int, costs: dict[str, int]) -> Board:
    found = {}
    for row in rows:
        name, unit = row["metric"], row["unit"] or ""
        found[name] = Metric(name, unit, row["higher_is_better"], name not in costs and unit not in OF_THE_COST)
    order = {unit: place for place, unit in enumerate(OF_THE_COST)}
    declared = _declared(question["task"])  # a task's first metric is its headline, by which weights are chosen too
    metrics = sorted(
        found.values(),
        key=lambda m: (
            (-1, declared.index(m.name) if m.name in declared else len(declared))
            if m.scores
            else (order.get(m.unit, len(order)), costs.get(m.name, len(costs))),
            m.name,
        ),
    )
    timed = [metric for metric in metrics if metric.unit == "seconds"]
    headline = metrics[0] if metrics[0].scores or not timed else timed[0]
    metrics.sort(key=lambda metric: metric is not headline)
    by_line: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    for row in rows:
        own = tuple(str(row[name] or "") for name in ("mechanism", "params", "backend", "grade"))
        by_line.setdefault(own, {}).setdefault(row["metric"], []).append(row)
    lines = [_line(own, answers) for own, answers in by_line.items()]
    _label(lines)
    for metric in metrics:
        _mark([line for line in lines if line.kind == "ranked"], metric)
    return Board(question, machine, metrics, headline, _ranked(lines, headline), sources)


def _declared(task: str) -> list[str]:
    """Name a task's metrics in the order of its card; none where the task is not here."""
    try:
        return list(card("task", task).facts["metrics"])
    except UsageError:
        return []


def _line(own: tuple[str, ...], found: dict[str, list[Row]]) -> Line:
    mechanism, params, backend, grade = own
    kind = grade if grade in ("leaky", "floor") else "floor" if mechanism in FLOORS else "ranked"
    if grade == "floor":  # every case of the task says it again
        found = {name: rows[:1] for name, rows in found.items()}
    cells = {name: _cell(rows) for name, rows in found.items()}
    return Line(mechanism, json.loads(params or "{}"), backend, grade, kind, cells)


def _cell(rows: list[Row]) -> Cell:
    status = worst(row["status"] for row in rows)
    # one wrong seed is enough: the mechanism is not what it says, and the other seeds' numbers are of the same code
    good = [row for row in rows if row["status"] == "ok" and row["value"] is not None and status != "wrong"]
    cell = Cell(status, seeds=len(good), asked=len(rows))
    for row in rows:
        if row["status"] != "ok":
            which = f" (seed {row['seed']})" if len(rows) > 1 else ""
            cell.reasons.append(f"{row['status']}: {row['reason'] or 'no reason was kept'}{which}")
    if good:
        cell.value, cell.low, cell.high = over_seeds([(r["value"], r["ci_low"], r["ci_high"]) for r in good])
        cell.processes = min(int(row["processes"] or 1) for row in good)
        stopped = {row["stop_reason"] or "no reason was kept" for row in good if row["converged"] is False}
        cell.stopped = sorted(stopped)
        cell.unsure = bool(stopped) and cell.low is None and cell.high is None
        # where nothing can converge, what a meter says of its value is a remark
        cell.reasons += sorted({row["stop_reason"] for row in good if row["converged"] is None and row["stop_reason"]})
    return cell


def _label(lines: list[Line]) -> None:
    """Name each line by its mechanism and by what sets it apart from the others of that mechanism."""
    twins: dict[str, list[Line]] = {}
    for line in lines:
        twins.setdefault(line.mechanism, []).append(line)
    for line in lines:
        others = twins[line.mechanism]
        words = [line.mechanism]
        for name, value in line.params.items():
            if any(other.params.get(name) != value for other in others):
                words.append(f"{name}={value['name'] if isinstance(value, dict) and 'name' in value else value}")
        if line.backend not in ("", "eager") or any(other.backend != line.backend for other in others):
            words.append(line.backend)
        line.label = " ".join(words)


def _mark(lines: list[Line], metric: Metric) -> None:
    """Mark the best of a column and all that cannot be told from it, unless most are the best."""
    found = [line.cells[metric.name] for line in lines if metric.name in line.cells]
    valued = [cell for cell in found if cell.value is not None]
    if metric.higher_is_better is None or len(valued) < 2:
        return
    best = min(valued, key=lambda cell: _badness(cell, metric))
    if 2 * sum(cell.value == best.value for cell in valued) > len(valued):
        return
    for cell in valued:
        cell.mark = "best" if cell.value == best.value else "tied" if cell.overlaps(best) else ""


def _ranked(lines: list[Line], headline: Metric) -> list[Line]:
    """Rank by the headline; what has no number follows, then the floors, then what looks ahead."""

    def number(line: Line) -> Cell | None:
        cell = line.cells.get(headline.name)
        return cell if cell is not None and cell.value is not None else None

    def place(line: Line) -> tuple[int, bool, float, str]:
        cell = number(line)
        badness = STATUSES[::-1].index(line.status) if cell is None else _badness(cell, headline)
        return KINDS.index(line.kind), cell is None, badness, line.label

    ordered = sorted(lines, key=place)
    floors = [cell for line in lines if line.kind == "floor" and (cell := number(line))]
    position = 0
    for line in ordered:
        cell = number(line)
        if line.kind == "ranked" and cell is not None:
            position += 1
            line.rank = position
            line.at_floor = headline.scores and any(_reaches(cell, floor, headline) for floor in floors)
    return ordered


def _reaches(cell: Cell, floor: Cell, metric: Metric) -> bool:
    return cell.overlaps(floor) or _badness(cell, metric) > _badness(floor, metric)


def _badness(cell: Cell, metric: Metric) -> float:
    assert cell.value is not None
    return -cell.value if metric.higher_is_better else cell.value


def _place(board: Board) -> tuple[Any, ...]:
    q = board.question
    pattern = PATTERNS.index(q["pattern"]) if q["pattern"] in PATTERNS else len(PATTERNS)
    first = [str(q[name]) for name in QUESTION if name not in ("pattern", "n", "m")]
    return (*first, board.machine, pattern, q["n"] or 0, q["m"] or 0)
