"""What the page shows, packed in columns: the boards, their lines and cells, and where each mechanism starts to win.

Numbers have five digits. The JSON is compressed (raw deflate) and written as base64, which the page's script decodes.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from cab.analysis.aggregates import Aggregate
from cab.analysis.agreement import agreements
from cab.analysis.derived_values import state_configuration
from cab.analysis.leaderboard import LINE_KINDS, Board, Cell, metrics_of
from cab.analysis.mean_ranks import mean_ranks, paired_differences
from cab.analysis.published import published_for_all
from cab.analysis.quality import measured_costs, quality, stop_reasons, worst_rows
from cab.analysis.questions import QUESTION, records
from cab.analysis.ranking import joint_labels
from cab.analysis.readable import INFINITE
from cab.analysis.settings import settings_of
from cab.analysis.statuses import failures
from cab.report import notes
from cab.report.aggregates import (
    HEADS,
    PAIR_HEADS,
    about_pairs,
    about_ranks,
    aggregates_by_pattern,
    cabs_boards,
    pair_texts,
    texts,
)
from cab.report.command import mechanism_words, question_words
from cab.report.evidence import Evidence
from cab.report.units import display_unit

if TYPE_CHECKING:
    from pandas import DataFrame

INTERVAL_STEP = 1e-4  # of the value: the ends of an interval are whole multiples of it
# marks of the terminal that the page has other means for: a range of ranks, and the words "no interval"
_UNUSED_MARKS = (notes.MARKS["tied"], notes.MARKS["no interval"])
NO_END = -1  # stands for an end of an interval that is not there
# columns that a curve of `cab.analysis.curves` shares with a board; boards that agree in them differ in length alone
_CURVE_COLUMNS = (
    "pattern", "task", "level", "pass", "batch", "heads", "dim", "dtype", "device", "scale", "settings",
)  # fmt: skip


class _Codes:
    """Numbers values in the order in which they come."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._codes: dict[Any, int] = {}

    def code(self, value: Any) -> int:
        code = self._codes.setdefault(value, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code


def packed(data: Any) -> str:
    """Return JSON-able data as base64 of raw deflate."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return base64.b64encode(compressor.compress(text.encode()) + compressor.flush()).decode()


def page_data(
    boards: Sequence[Board],
    rows: "DataFrame",
    lengths: "DataFrame",
    machines: Mapping[str, str],
    evidence: Evidence,
) -> dict[str, Any]:
    """Return what the page's script needs; `lengths` is the table of `efficiency_lengths`."""
    curves, identities = _Codes(), _Codes()
    data = {
        "metrics": _metrics(boards),
        "kinds": LINE_KINDS,
        "intervalStep": INTERVAL_STEP,
        **_columns(boards, curves, identities, evidence),
        "medians": _medians(boards, machines, evidence),
        "wins": _wins(lengths, machines, curves, identities),
        "failures": [[each.status, each.reason, each.rows, each.mechanisms] for each in failures(rows)],
        "published": [list(row.values()) for row in published_for_all(boards)],
        "trainings": _trainings(boards, rows),
        "quality": _quality(rows),
        "agreements": [
            [
                each.kind,
                each.first,
                each.second,
                each.where,
                each.count,
                *map(_two_decimals, (each.value, each.low, each.high)),
            ]
            for each in agreements(boards)
        ],
        "aggregates": {pattern: _aggregate(of) for pattern, of in aggregates_by_pattern(boards).items()},
        "aggregateHeads": HEADS,
        "pairHeads": PAIR_HEADS,
        "cabsBoards": [[pattern, rank, name, f"{index:+.2f}"] for pattern, rank, name, index in cabs_boards()],
    }
    data["identities"] = _identities(identities.values, boards)
    return data


def _identities(identities: Sequence[tuple[str, str, str]], boards: Sequence[Board]) -> list[list[str]]:
    """Return mechanism, params, backend, the words of a command and the label over all boards, a row each."""
    labels = joint_labels(line for board in boards for line in board.lines)
    rows = []
    for mechanism, params, backend in identities:
        values = json.loads(params or "{}")
        label = labels.get((mechanism, str(values), backend), mechanism)
        rows.append([mechanism, params, backend, mechanism_words(mechanism, values, backend), label])
    return rows


def _aggregate(aggregates: Sequence[Aggregate]) -> dict[str, Any]:
    """Return the rows of an aggregate, and its mean ranks, or its paired differences where there are fewer tasks."""
    ranks, pairs = mean_ranks(aggregates), paired_differences(aggregates)
    data: dict[str, Any] = {"rows": [texts(each) for each in aggregates]}
    if ranks is not None:
        means = [[name, _five_digits(rank)] for name, rank in ranks.ranks.items()]
        data["ranks"] = {"means": means, "difference": _five_digits(ranks.critical_difference), "groups": ranks.groups}
        data["about"] = about_ranks(ranks, aggregates[0].tasks)
    elif pairs:
        data |= {"pairs": [pair_texts(pair) for pair in pairs], "about": about_pairs(pairs)}
    return data


def _quality(rows: "DataFrame") -> dict[str, Any]:
    """Return how well costs were measured: by metric and length, why some did not converge, and the worst rows."""
    costs = measured_costs(rows)
    return {
        "rows": [
            [
                *(each.metric, each.n, each.values, each.without_interval, each.converged),
                *(
                    None if x is None else _five_digits(x)
                    for x in (each.tenth, each.median, each.ninetieth, each.worst)
                ),
            ]
            for each in quality(costs)
        ],
        "reasons": stop_reasons(costs),
        "worst": [[_five_digits(row.pop("half_width")), *map(str, row.values())] for row in worst_rows(costs)],
    }


def _trainings(boards: Sequence[Board], rows: "DataFrame") -> dict[str, list[list[float]]]:
    """Return case id -> the steps of its validations, and the headline of its board at each of them."""
    headline_of = {
        case_id: board.headline.name for board in boards for line in board.lines for case_id in line.case_ids
    }
    validations = rows[rows["step"].notna() & rows["value"].notna()]
    points: dict[str, list[tuple[int, float]]] = {}
    columns = (validations[name] for name in ("case_id", "metric", "step", "value"))
    for case_id, metric, step, value in zip(*columns, strict=True):
        if headline_of.get(case_id) == metric and isfinite(value):
            points.setdefault(str(case_id), []).append((int(step), _five_digits(float(value))))
    return {case_id: [list(each) for each in zip(*sorted(of), strict=True)] for case_id, of in points.items()}


def _metrics(boards: Sequence[Board]) -> list[dict[str, Any]]:
    metrics = []
    for metric in metrics_of(boards):
        values = [
            line.cells[metric.name].value for board in boards for line in board.lines if metric.name in line.cells
        ]
        unit = display_unit(metric.unit, values)
        facts = {"name": metric.name, "title": unit.header(metric.name), "unit": unit.name, "factor": unit.factor}
        kind = {"higher": metric.higher_is_better, "score": metric.is_score, "byDifference": metric.by_difference}
        metrics.append({**facts, **kind})
    return metrics


def _medians(
    boards: Sequence[Board], machines: Mapping[str, str], evidence: Evidence
) -> dict[str, list[tuple[str, str, list[float]]]]:
    """Return case id -> the medians of its processes, each with metric and machine."""
    shown = {case_id for board in boards for line in board.lines for case_id in line.case_ids}
    medians: dict[str, list[tuple[str, str, list[float]]]] = {}
    for (case_id, environment_id, metric), values in evidence.medians.items():
        if case_id in shown:
            finite = [_five_digits(value) for value in values if isfinite(value)]
            medians.setdefault(case_id, []).append((metric, machines.get(environment_id, environment_id), finite))
    return medians


def legend(boards: Sequence[Board]) -> list[str]:
    """Explain the marks that the page uses on these boards, and say what limits the comparison."""
    return [text for text in notes.legend(boards) if text[0] not in _UNUSED_MARKS]


def _columns(boards: Sequence[Board], curves: _Codes, identities: _Codes, evidence: Evidence) -> dict[str, Any]:
    """Return the columns of boards, lines and cells."""
    metric_codes = {metric.name: code for code, metric in enumerate(metrics_of(boards))}
    texts, commands, configurations, twins = _Codes(), _Codes(), _Codes(), _Codes()
    property_names = [*(name for name in QUESTION if name not in ("n", "m")), "machine", "length"]
    properties = {name: _Codes() for name in property_names}
    of_board: dict[str, list[Any]] = {
        name: [] for name in ("command", "curve", "configuration", "twin", "baseline", "headline", "n", "m")
    }
    of_board |= {"lines": [], "note": [], "legend": [], "properties": [[] for _ in property_names]}
    names = ("label", "identity", "grade", "kind", "floor", "cases", "seeds", "laws", "cells")
    of_line: dict[str, list[Any]] = {name: [] for name in names}
    cell_names = ("metric", "value", "low", "high", "status", "seeds", "processes", "counted", "reasons")
    of_cell: dict[str, list[Any]] = {name: [] for name in cell_names}
    differing = notes.settings_that_differ(boards)
    for board in boards:
        for i, name in enumerate(property_names):
            of_board["properties"][i].append(properties[name].code(_property(name, board, differing)))
        of_board["command"].append(commands.code(question_words(board.question)))
        n, m = board.question["n"], board.question["m"]
        of_board["curve"].append(curves.code(_curve_of(board.question, board.machine, None if n == m else m)))
        of_board["configuration"].append(configurations.code(state_configuration(board)))
        baseline, question = _without_baseline(board)
        of_board["baseline"].append(texts.code(baseline))
        of_board["twin"].append(twins.code(question))
        of_board["headline"].append(metric_codes[board.headline.name])
        of_board["n"].append(board.question["n"])
        of_board["m"].append(board.question["m"])
        of_board["lines"].append(len(board.lines))
        of_board["note"].append(texts.code(notes.conditions(board)))
        of_board["legend"].append(texts.code("\n".join(legend([board]))))
        for line in board.lines:
            of_line["label"].append(texts.code(line.label))
            params = json.dumps(line.params, sort_keys=True, separators=(",", ":"))
            of_line["identity"].append(identities.code((line.mechanism, params, line.backend)))
            of_line["grade"].append(texts.code(line.grade))
            of_line["kind"].append(LINE_KINDS.index(line.kind))
            of_line["floor"].append(int(line.at_floor))
            of_line["cases"].append(",".join(line.case_ids))
            of_line["seeds"].append(texts.code(",".join(map(str, line.seeds))))
            asked = (board.question[name] for name in ("dtype", "device"))
            laws_key = (line.mechanism, params, str(board.question["pattern"]), line.backend, *map(str, asked))
            of_line["laws"].append(texts.code(evidence.laws.get(laws_key, "")))
            of_line["cells"].append(len(line.cells))
            for name, cell in line.cells.items():
                _add_cell(of_cell, metric_codes[name], cell, texts)
    return {
        "properties": {name: codes.values for name, codes in properties.items()},
        "texts": texts.values,
        "commands": commands.values,
        "boards": of_board,
        "lines": of_line,
        "cells": of_cell,
    }


def _add_cell(columns: dict[str, list[Any]], metric: int, cell: Cell, texts: _Codes) -> None:
    value, reasons = cell.value, [*cell.reasons, *(f"wide interval: {each}" for each in cell.stop_reasons)]
    if value is not None and not isfinite(value):
        value, reasons = None, [*reasons, INFINITE]
    columns["metric"].append(metric)
    columns["value"].append(None if value is None else _five_digits(value))
    columns["low"].append(_steps(value, cell.low, -1))
    columns["high"].append(_steps(value, cell.high, 1))
    columns["status"].append(texts.code("no interval" if cell.interval_unknown else cell.status))
    columns["seeds"].append(cell.seeds)
    columns["processes"].append(cell.processes)
    columns["counted"].append(int(cell.counted))
    columns["reasons"].append(texts.code("; ".join(reasons)))


def _two_decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _five_digits_or_none(value: float | None) -> float | int | None:
    return None if value is None else _five_digits(value)


def _five_digits(value: float) -> float | int:
    rounded = float(f"{value:.5g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _steps(value: float | None, end: float | None, sign: int) -> Any:
    """Return how many INTERVAL_STEPs of the value its end lies away; where it is 0, the end itself as a text."""
    if value is None or end is None or not isfinite(end):
        return NO_END
    return max(round(sign * (end - value) / (INTERVAL_STEP * abs(value))), 0) if value else f"{end:.5g}"


def _property(name: str, board: Board, differing: Mapping[str, str]) -> str:
    if name == "machine":
        return board.machine or "unknown"
    if name == "length":
        n, m = board.question["n"], board.question["m"]
        return f"{n}" if n == m else f"{n}:{m}"
    if name == "settings":
        return differing[settings_of(board)] or "none"
    value = board.question[name]
    return "none" if value in (None, "") else str(value)


def _without_baseline(board: Board) -> tuple[str, tuple[str, ...]]:
    """Return the mechanism and backend that a board's times are multiples of, and its question but for that."""
    settings = json.loads(settings_of(board))
    baseline = [str(settings.pop(name, "")) for name in ("baseline", "baseline_backend")]
    question = [str(board.question[name]) for name in QUESTION if name != "settings"]
    return " ".join(baseline).strip(), (*question, json.dumps(settings, sort_keys=True), board.machine)


def _curve_of(columns: Mapping[str, Any], machine: str, keys: int | None = None) -> tuple[str, ...]:
    """Return what boards share that differ in length alone; `keys` where it is not the number of queries."""
    return (*(str(columns[name]) for name in _CURVE_COLUMNS), machine, str(keys))


def _wins(lengths: "DataFrame", machines: Mapping[str, str], curves: _Codes, identities: _Codes) -> list[list[Any]]:
    """Return, a row each: curve, identity, metric, against, answer, length, low and high of an efficiency length."""
    wins = []
    for row in records(lengths):
        curve = curves.code(_curve_of(row, machines.get(str(row["environment_id"]), str(row["environment_id"]))))
        identity = identities.code((row["mechanism"], row["params"], row["backend"]))
        ends = [
            None if end is None or end != end else round(float(end)) for end in (row["length"], row["low"], row["high"])
        ]
        wins.append([curve, identity, row["metric"], row["against"], row["answer"], *ends])
    return wins
