"""What a number does not show, said beside it: titles, footnotes, counts of statuses, and how each metric was taken."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cab.analysis.leaderboard import Board, Cell, Line, Metric
from cab.analysis.questions import final, records
from cab.contracts.case import STATUSES
from cab.plugins.registry import cards_of

if TYPE_CHECKING:
    from pandas import DataFrame

EMPTY = "no results yet: run `cab run mechanism=softmax task=speed` first, or name another folder with --results"
NOT_COMPARABLE = "(not comparable"  # how a data source says that published numbers came from other data
TITLES = {"NS": "noncausal self", "CS": "causal self", "NC": "noncausal cross", "CC": "causal cross"}
QUIET = ("unsupported", "skipped")  # nothing went wrong: a dash, and the reason beside it
MARKS = {"best": "", "tied": "≈", "floor": "⌊", "stopped": "†"}


def title(board: Board, *others: Board) -> str:
    """Say what is asked: task, pattern and lengths (how many, where there are others)."""
    q = board.question
    at = f"{1 + len(others)} lengths" if others else lengths(q)
    return f"{q['task']} · {TITLES.get(q['pattern'], q['pattern'])} ({q['pattern']}) · {at}"


def lengths(question: dict[str, Any]) -> str:
    """Write n, and m where it differs."""
    return f"n = {question['n']:,}" + (f", m = {question['m']:,}" if question["m"] != question["n"] else "")


def conditions(board: Board) -> str:
    """Say under which conditions, in one line."""
    q = board.question
    words = [f"{q['level']}, {str(q['pass']).replace('_', ' + ')}", f"scale {q['scale']}"]
    words += [f"batch {q['batch']}", f"{q['heads']} heads of {q['dim']}", str(q["dtype"]), str(q["device"])]
    words += [f"data {data(board)}"] if q["data_source"] else []
    words += [f"protocol {q['protocol']}"] if q["protocol"] else []
    words += [f"task version {q['task_version']}"] if q["task_version"] is not None else []
    return " · ".join(words + list(_notable(q["settings"]))).replace(" 1 heads", " 1 head")


def _notable(settings: str | None) -> Iterator[str]:
    """Yield the settings that a reader asks for: the training's budget, and what is not left at nothing."""
    for name, value in _flat(json.loads(settings or "{}")):
        part, _, key = name.rpartition(".")
        if key in ("steps", "lr") if part == "training" else not part and value not in (None, 0, ""):
            yield f"{key.replace('_', ' ')} {value}"


def data(board: Board) -> str:
    """Name the data, less the remark that `legend` makes of it."""
    return str(board.question["data_source"] or "").partition(NOT_COMPARABLE)[0].strip()


def settings_that_differ(boards: Sequence[Board]) -> dict[str, str]:
    """Return the settings of boards, as canonical JSON, -> those that are not the same in all of them, in words."""
    flat = {
        text: dict(_flat(json.loads(text))) for text in dict.fromkeys(b.question["settings"] or "{}" for b in boards)
    }
    names = [
        n for n in dict.fromkeys(n for f in flat.values() for n in f) if len({str(f.get(n)) for f in flat.values()}) > 1
    ]
    return {text: ", ".join(f"{n}={own[n]}" for n in names if own.get(n) is not None) for text, own in flat.items()}


def _flat(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield path + name, value


def marks(line: Line, cell: Cell, headline: bool) -> str:
    """Return the signs that stand beside a value; `legend` explains them."""
    found = MARKS[cell.mark] if cell.mark else ""
    found += MARKS["floor"] if headline and line.at_floor else ""
    return found + (MARKS["stopped"] if cell.stopped else "")


def legend(boards: Sequence[Board]) -> list[str]:
    """Explain the signs that these boards use, and warn of what they do not show."""
    lines = [line for board in boards for line in board.lines]
    cells = [cell for line in lines for cell in line.cells.values()]
    found = []
    if any(cell.mark == "tied" for cell in cells):
        found.append("≈ not distinguishable from the best of its column: the 95 % intervals overlap")
    if any(line.at_floor for line in lines):
        found.append("⌊ not above the floors: its interval reaches one of theirs")
    if any(cell.stopped for cell in cells):
        found.append("† stopped before it converged")
    if any(line.kind == "floor" for line in lines):
        found.append("floor: reads no other token, or needs no model; what every score is read against, and not ranked")
    if any(line.kind == "leaky" for line in lines):
        found.append("leaky: its outputs depend on what the pattern forbids; not ranked")
    if any(line.grade == "extension" for line in lines):
        found.append("extension: its authors did not define it for this pattern")
    own = [board for board in boards if NOT_COMPARABLE in str(board.question["data_source"])]
    for name in dict.fromkeys(map(data, own)):
        found.append(f"not comparable with published numbers: scores on the data {name}")
    if any(board.score_machines > 1 for board in boards):
        found.append("scores, FLOPs and parameters come from several machines; times and memory never do")
    return found + _about_seeds(boards)


def _about_seeds(boards: Sequence[Board]) -> list[str]:
    scored = [
        line.cells[b.headline.name] for b in boards if b.scores for line in b.lines if b.headline.name in line.cells
    ]
    seeds = {cell.asked for cell in scored if cell.value is not None}
    found = []
    if any(count > 1 for count in seeds):
        found.append("several seeds: their mean; the interval adds the spread over seeds to that within a seed")
    if 1 in seeds:
        found.append("one seed: the interval covers the test examples, not what another seed would have learned")
    return found


def methods(boards: Sequence[Board]) -> list[str]:
    """Say how each metric was taken, in the words of the meter that took it."""
    about = {}
    for card in cards_of("meter").values():
        if not isinstance(card, Exception):
            about.update(dict.fromkeys(card.facts["metrics"], card.facts["method"]))
    shown = dict.fromkeys(metric.name for board in boards for metric in board.metrics)
    said: dict[str, list[str]] = {}
    for name in shown:
        if about.get(name):
            said.setdefault(about[name], []).append(name.replace("_", " "))
    found = [f"{', '.join(names)}: {method}" for method, names in said.items()]
    return found + _processes(boards)


def _processes(boards: Sequence[Board]) -> list[str]:
    found = []
    for name in dict.fromkeys(m.name for board in boards for m in board.metrics if m.unit == "seconds"):
        cells = [line.cells[name] for board in boards for line in board.lines if name in line.cells]
        counts = sorted({cell.processes for cell in cells if cell.value is not None})
        if counts:
            several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
            found.append(f"{name}: each value rests on {several} process{'es' if counts != [1] else ''}")
    return found


@dataclass(frozen=True)
class Failure:
    """Rows that share a status and its reason."""

    status: str
    reason: str
    rows: int
    cases: int
    mechanisms: list[str]


def status_counts(rows: "DataFrame") -> dict[str, tuple[int, int]]:
    """Return status -> how many rows have it, and how many cases have it as their worst."""
    answers = final(rows[rows["grade"] != "floor"])  # which nobody asked for
    by_row = Counter(str(status) for status in answers["status"])
    worst: dict[str, int] = {}
    for case, status in zip(answers["case_id"], answers["status"], strict=True):
        worst[case] = min(worst.get(case, len(STATUSES)), STATUSES.index(status))
    by_case = Counter(STATUSES[position] for position in worst.values())
    return {status: (by_row[status], by_case[status]) for status in reversed(STATUSES) if by_row[status]}


def failures(rows: "DataFrame") -> list[Failure]:
    """Return what did not end as `ok`, worst and most frequent first."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in records(rows[rows["status"] != "ok"]):
        found.setdefault((row["status"], row["reason"] or "no reason was kept"), []).append(row)
    listed = [
        Failure(status, reason, len(group), len({r["case_id"] for r in group}), sorted({r["mechanism"] for r in group}))
        for (status, reason), group in found.items()
    ]
    return sorted(listed, key=lambda f: (STATUSES.index(f.status), -f.rows, f.reason))


def column_metrics(boards: Sequence[Board]) -> list[Metric]:
    """Return every metric of these boards, in their order."""
    return list({metric.name: metric for board in boards for metric in board.metrics}.values())
