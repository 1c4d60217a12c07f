"""Makes leaderboards of rows: groups the rows of a question into lines, marks the best values, and ranks the lines."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from cab.analysis.leaderboard import COST_UNITS, LINE_KINDS, Board, Cell, Line, Metric
from cab.analysis.questions import NO_REASON, QUESTION, Answers, Row, answers
from cab.analysis.seeds import mean_over_seeds
from cab.contracts.case import STATUSES, worst
from cab.contracts.pattern import Pattern
from cab.errors import UsageError
from cab.plugins.cards import Card
from cab.plugins.registry import card, cards_of

if TYPE_CHECKING:
    from pandas import DataFrame

# No answer to any question, because what they read does not depend on the queries: they are shown and never ranked.
CONTROL_MECHANISMS = ("none", "mean")
FLOOR_MECHANISMS = ("none",)  # those that read no other token: a score that is not above theirs shows no learning
PATTERNS = list(Pattern.__members__)


def leaderboard(rows: "DataFrame", environments: "DataFrame | None" = None) -> list[Board]:
    """Return a board for each question and machine, in the order of tasks, patterns and lengths."""
    cost_order = _cost_order()
    return sorted((_board(each, cost_order) for each in answers(rows, environments)), key=_board_order)


def _cost_order() -> dict[str, int]:
    """Return the metrics of the meters, which are costs -> position on the meter's card. Other metrics are scores."""
    cards = [card for card in cards_of("meter").values() if isinstance(card, Card)]
    return {name: position for card in cards for position, name in enumerate(card.facts["metrics"])}


def _board(each: Answers, cost_order: dict[str, int]) -> Board:
    metrics = _metrics(each, cost_order)
    headline = metrics[0]
    rows_of_line: dict[tuple[str, ...], dict[str, list[Row]]] = {}
    key_of = itemgetter("mechanism", "params", "backend", "grade")
    for row in each.rows:
        key = key_of(row)
        if not all(key):
            key = tuple(value or "" for value in key)
        rows_of_line.setdefault(key, {}).setdefault(row["metric"], []).append(row)
    lines = [_line(key, by_metric) for key, by_metric in rows_of_line.items()]
    if any(metric.name == "flops" for metric in metrics):
        _fill_flops(lines)
    _label(lines)
    for metric in metrics:
        _mark([line for line in lines if line.kind == "ranked"], metric)
    return Board(each.question, each.machine, metrics, headline, _ranked(lines, headline), each.score_machines)


def _metrics(each: Answers, cost_order: dict[str, int]) -> list[Metric]:
    """Return the metrics of some rows: the headline, scores in the order of the task's card, costs by unit and meter.

    The headline is the first score, or latency, or the first cost.
    """
    by_name: dict[str, Metric] = {}
    known_metrics = _task_metrics(each.question["task"])
    task_metrics = known_metrics or []
    for row in each.rows:
        name, unit = row["metric"], row["unit"] or ""
        if name in by_name:
            continue
        # of a task that is not installed here, what no meter measures and is in no unit of cost is a score
        is_score = name in task_metrics or (known_metrics is None and name not in cost_order and unit not in COST_UNITS)
        by_name[name] = Metric(name, unit, row["higher_is_better"], is_score)

    def order(metric: Metric) -> tuple[int, int, str]:
        if metric.is_score:
            known = metric.name in task_metrics
            return -1, task_metrics.index(metric.name) if known else len(task_metrics), metric.name
        unit = COST_UNITS.index(metric.unit) if metric.unit in COST_UNITS else len(COST_UNITS)
        return unit, cost_order.get(metric.name, len(cost_order)), metric.name

    metrics = sorted(by_name.values(), key=order)
    times = [metric for metric in metrics if metric.unit == "seconds"]
    headline = metrics[0] if metrics[0].is_score or not times else times[0]
    return sorted(metrics, key=lambda metric: metric is not headline)


def _task_metrics(task: str) -> list[str] | None:
    """Return a task's metrics in the order of its card, the headline first; None where the task is not installed."""
    try:
        return list(card("task", task).facts["metrics"])
    except UsageError:
        return None


def _line(key: tuple[str, ...], rows_by_metric: dict[str, list[Row]]) -> Line:
    mechanism, params, backend, grade = key
    if grade == "leaky":
        kind = "leaky"
    else:
        kind = "control" if grade == "floor" or unmarked(mechanism) in CONTROL_MECHANISMS else "ranked"
    if grade == "floor":  # a task's floor has one row in every case of the task, all of one value
        rows_by_metric = {name: rows[:1] for name, rows in rows_by_metric.items()}
    cells = {name: _cell(rows) for name, rows in rows_by_metric.items()}
    line = Line(mechanism, json.loads(params or "{}"), backend, grade, kind, cells)
    every_row = [row for rows in rows_by_metric.values() for row in rows]
    line.environment_ids = {str(row["environment_id"]) for row in every_row if row["environment_id"]}
    if grade != "floor":
        line.case_ids = list(dict.fromkeys(row["case_id"] for row in every_row))
        line.seeds = sorted({row["seed"] for row in every_row if row["seed"] is not None})
    return line


def _fill_flops(lines: list[Line]) -> None:
    """Show what was counted, marked, where a mechanism has no closed form of its FLOPs."""
    for line in lines:
        counted = line.cells.get("flops_counted")
        if "flops" not in line.cells and counted is not None and counted.value is not None:
            line.cells["flops"] = replace(counted, counted=True, reasons=[])


def _cell(rows: list[Row]) -> Cell:
    """Return the cell of one metric of one line. It has a row for each seed."""
    if len(rows) == 1 and rows[0]["status"] == "ok" and rows[0]["value"] is not None:
        return _cell_of_one(rows[0])
    status = worst(row["status"] for row in rows)
    # A wrong seed takes the value away: the other seeds' values are those of the same wrong computation.
    valid = [row for row in rows if row["status"] == "ok" and row["value"] is not None and status != "wrong"]
    cell = Cell(status, seeds=len(valid), seeds_asked=len(rows))
    for row in rows:
        if row["status"] != "ok":
            seed = f" (seed {row['seed']})" if len(rows) > 1 else ""
            cell.reasons.append(f"{row['status']}: {row['reason'] or NO_REASON}{seed}")
    if valid:
        values_and_intervals = [(row["value"], row["ci_low"], row["ci_high"]) for row in valid]
        cell.value, cell.low, cell.high = mean_over_seeds(values_and_intervals)
        cell.seed_values = tuple(row["value"] for row in valid) if len(valid) > 1 else ()
        if valid[0]["unit"] == "fraction" and 0 <= cell.value <= 1:  # Student's t knows no bounds
            cell.low = None if cell.low is None else max(cell.low, 0.0)
            cell.high = None if cell.high is None else min(cell.high, 1.0)
        cell.processes = min(int(row["processes"] or 1) for row in valid)
        cell.stop_reasons = sorted({row["stop_reason"] or NO_REASON for row in valid if row["converged"] is False})
        cell.interval_unknown = bool(cell.stop_reasons) and cell.low is None and cell.high is None
        # a count does not converge: its `stop_reason` is a remark of the meter
        cell.reasons += sorted({row["stop_reason"] for row in valid if row["converged"] is None and row["stop_reason"]})
    return cell


def reranked(board: Board, lines: list[Line], headline: Metric | None = None) -> Board:
    """Return a board of some of its lines, ranked among themselves, by another metric where one is given."""
    by = headline or board.headline
    lines = [replace(line, cells={name: replace(cell, mark="") for name, cell in line.cells.items()}) for line in lines]
    for metric in board.metrics:
        _mark([line for line in lines if line.kind == "ranked"], metric)
    for line in lines:
        line.rank, line.ranks, line.at_floor = None, None, False
    metrics = sorted(board.metrics, key=lambda metric: metric is not by)
    return replace(board, lines=_ranked(lines, by), headline=by, metrics=metrics)


def _cell_of_one(row: Row) -> Cell:
    """Return what `_cell` does for one row with a value: of most stores every cell, so that it has to be fast."""
    value, low, high = row["value"], row["ci_low"], row["ci_high"]
    cell = Cell("ok", value, low, high, seeds=1, processes=int(row["processes"] or 1))
    if row["unit"] == "fraction" and 0 <= value <= 1:
        cell.low, cell.high = (None if low is None else max(low, 0.0)), (None if high is None else min(high, 1.0))
    if row["converged"] is False:
        cell.stop_reasons = [row["stop_reason"] or NO_REASON]
        cell.interval_unknown = low is None and high is None
    elif row["converged"] is None and row["stop_reason"]:
        cell.reasons = [row["stop_reason"]]
    return cell


def _label(lines: Sequence[Line]) -> None:
    """Label each line with its mechanism and with what differs from the other lines of that mechanism."""
    labels = joint_labels(lines)
    for line in lines:
        line.label = labels[line.key[:3]]


def joint_labels(lines: Iterable[Line]) -> dict[tuple[str, str, str], str]:
    """Return mechanism, params and backend, as in `Line.key` -> a label that tells them apart among all these lines."""
    of_mechanism: dict[str, dict[tuple[str, str, str], Line]] = {}
    for line in lines:
        of_mechanism.setdefault(line.mechanism, {}).setdefault(line.key[:3], line)
    labels = {}
    for mechanism, of in of_mechanism.items():
        others = of.values()
        for key, line in of.items():
            words = [mechanism]
            for name, value in line.params.items():
                if any(other.params.get(name) != value for other in others):
                    words.append(f"{name}={value['name'] if isinstance(value, dict) and 'name' in value else value}")
            if line.backend not in ("", "eager") or any(other.backend != line.backend for other in others):
                words.append(line.backend)
            labels[key] = " ".join(words)
    return labels


def labelled_together(boards: Iterable[Board]) -> list[Board]:
    """Return the boards with labels that hold over all of them, for what follows a line from board to board.

    The label of a board alone leaves out what all its lines share. So on two boards one label may be of two
    hyper-parameters, and one line may have two labels.
    """
    boards = list(boards)
    labels = joint_labels(line for board in boards for line in board.lines)
    return [
        replace(board, lines=[replace(line, label=labels[line.key[:3]]) for line in board.lines]) for board in boards
    ]


def _mark(lines: list[Line], metric: Metric) -> None:
    """Mark a column's best value and those tied with it. None is marked where more than half are equal to the best."""
    cells = [cell for line in lines if (cell := _cell_with_value(line, metric))]
    if metric.higher_is_better is None or len(cells) < 2:
        return
    best = min(cells, key=lambda cell: _loss(cell, metric))
    if 2 * sum(cell.value == best.value for cell in cells) > len(cells):
        return
    for cell in cells:
        if cell.value == best.value:
            cell.mark = "best"
        elif cell.overlaps(best):
            cell.mark = "tied"


def _ranked(lines: list[Line], headline: Metric) -> list[Line]:
    """Return the lines in the order in which they are shown, and give the ranked ones their rank.

    First the ranked lines, then the floors, then the leaky ones. In each, lines without a value come last. A headline
    whose meter or task declares no direction (`higher_is_better` is None) ranks nothing.
    """

    def order(line: Line) -> tuple[int, bool, float, str]:
        cell = _cell_with_value(line, headline)
        loss = STATUSES[::-1].index(line.status) if cell is None else _loss(cell, headline)
        if cell is not None and headline.higher_is_better is None:
            loss = 0.0  # no value is better than another: the order is that of the labels
        return LINE_KINDS.index(line.kind), cell is None, loss, line.label

    floors = [cell for line in lines if _is_floor(line) and (cell := _cell_with_value(line, headline))]
    ordered = sorted(lines, key=order)
    rank = 0
    for line in ordered:
        cell = _cell_with_value(line, headline)
        if line.kind == "ranked" and cell is not None and headline.higher_is_better is not None:
            rank += 1
            line.rank = rank
            line.at_floor = headline.is_score and any(
                cell.overlaps(floor) or _loss(cell, headline) > _loss(floor, headline) for floor in floors
            )
    with_rank = [line for line in ordered if line.rank is not None]
    ranges = rank_ranges([line.cells[headline.name] for line in with_rank], headline)
    for line, ranks in zip(with_rank, ranges, strict=True):
        line.ranks = ranks
    return ordered


def _is_floor(line: Line) -> bool:
    return line.grade == "floor" or unmarked(line.mechanism) in FLOOR_MECHANISMS


def unmarked(mechanism: str) -> str:
    """Return the name without the folder that the mechanism's rows come from: `none [floors]` is `none`."""
    return mechanism.partition(" [")[0]


def rank_ranges(cells: Sequence[Cell], metric: Metric) -> list[tuple[int, int]]:
    """Return the range of ranks of each cell among all: from behind the surely better to before the surely worse.

    All have a value. One value is surely better than another where their intervals do not overlap.
    """
    ends = []
    for cell in cells:
        low, high = cell.interval
        ends.append((-high, -low) if metric.higher_is_better else (low, high))
    known = [end for cell, end in zip(cells, ends, strict=True) if not cell.interval_unknown]
    lows, highs = sorted(low for low, _ in known), sorted(high for _, high in known)
    return [
        (1, len(cells))
        if cell.interval_unknown
        else (1 + bisect_left(highs, low), len(cells) - (len(lows) - bisect_right(lows, high)))
        for cell, (low, high) in zip(cells, ends, strict=True)
    ]


def _cell_with_value(line: Line, metric: Metric) -> Cell | None:
    cell = line.cells.get(metric.name)
    return cell if cell is not None and cell.value is not None else None


def _loss(cell: Cell, metric: Metric) -> float:
    """Return the value with a sign such that lower is better; of a metric that declares a direction."""
    assert cell.value is not None
    return -cell.value if metric.higher_is_better else cell.value


def _board_order(board: Board) -> tuple[Any, ...]:
    question = board.question
    others = [str(question[name]) for name in QUESTION if name not in ("pattern", "n", "m")]
    return (*others, board.machine, pattern_order(question["pattern"]), question["n"] or 0, question["m"] or 0)


def pattern_order(pattern: str) -> int:
    """Return the position of a pattern among the four; another one comes last."""
    return PATTERNS.index(pattern) if pattern in PATTERNS else len(PATTERNS)
