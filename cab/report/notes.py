"""The words beside the numbers: titles, footnotes, explanations of the marks, and how each metric was measured."""

from collections.abc import Iterator, Sequence
from typing import Any

from cab.analysis.leaderboard import Board, Cell, Line, metrics_of
from cab.analysis.settings import differing_settings, flat_settings, settings_of
from cab.analysis.slot_floors import MARK, machines_beside, measures_attention
from cab.contracts.pattern import Pattern
from cab.plugins.registry import cards_of

MOST_LINES = 40  # that the terminal prints unless all are asked for
EMPTY = "no results yet: run `cab run mechanism=softmax task=speed` first, or name another folder with --results"
BEYOND_LIMITS = "no line is within the limits of --max; raise one, or leave it out"
NOT_MEASURED = "this slot does not measure attention at this scale"
NOT_COMPARABLE = "(not comparable"  # in the name of a data source whose scores are not comparable with published ones
EXPECTED_STATUSES = ("unsupported", "skipped")  # nothing failed: a dash is shown, with the reason beside it
MARKS = {"best": "", "tied": "≈", "at floor": "⌊", "no interval": "†", "counted": "*"}


def title(boards: Sequence[Board]) -> str:
    """Say what some boards ask: the task, the pattern, and the length or how many there are."""
    question = boards[0].question
    length = f"{len(boards)} lengths" if len(boards) > 1 else lengths(question)
    return f"{question['task']} · {pattern_title(question['pattern'])} · {length}"


def pattern_title(pattern: str) -> str:
    """Write a pattern in words, with its name: `causal cross (CC)`."""
    return f"{Pattern[pattern].title if pattern in Pattern.__members__ else pattern} ({pattern})"


def lengths(question: dict[str, Any]) -> str:
    """Write n, and m where it differs."""
    return f"n = {question['n']:,}" + (f", m = {question['m']:,}" if question["m"] != question["n"] else "")


def conditions(board: Board) -> str:
    """Say under which conditions the rows of a board were measured, in one line."""
    question = board.question
    words = [
        f"{question['level']}, {str(question['pass']).replace('_', ' + ')}",
        f"scale {question['scale']}",
        f"batch {question['batch']}",
        f"{question['heads']} heads of {question['dim']}",
        str(question["dtype"]),
        str(question["device"]),
    ]
    if question["data_source"]:
        words.append(f"data {data_name(board)}")
    if question["protocol"]:
        words.append(f"protocol {question['protocol']}")
    if question["task_version"] is not None:
        words.append(f"task version {question['task_version']}")
    words += _notable_settings(board)
    if measures_attention(board) is False:
        words.append(NOT_MEASURED)
    return " · ".join(words).replace(" 1 heads", " 1 head")


def _notable_settings(board: Board) -> Iterator[str]:
    """Yield the training's steps and learning rate, and the settings at the top level that are set."""
    for name, value in flat_settings(settings_of(board)).items():
        group, _, key = name.rpartition(".")
        notable = (
            key in ("steps", "lr")
            if group == "training"
            else (not group or name == "task.others") and value not in (None, 0, "")
        )
        if notable:
            yield f"{key.replace('_', ' ')} {value}"


def data_name(board: Board) -> str:
    """Name the data, without the remark that they are not comparable, which `legend` makes."""
    return str(board.question["data_source"] or "").partition(NOT_COMPARABLE)[0].strip()


def settings_that_differ(boards: Sequence[Board]) -> dict[str, str]:
    """Return each board's settings, as canonical JSON -> those that are not the same on all boards, in words."""
    return {
        settings: ", ".join(f"{name}={value}" for name, value in values.items())
        for settings, values in differing_settings(boards).items()
    }


def marks(line: Line, cell: Cell, is_headline: bool) -> str:
    """Return the marks beside a value. `legend` explains them."""
    text = MARKS[cell.mark] if cell.mark else ""
    if is_headline and line.at_floor:
        text += MARKS["at floor"]
    if cell.interval_unknown:
        text += MARKS["no interval"]
    if cell.counted:
        text += MARKS["counted"]
    return text


def ranks(line: Line) -> str:
    """Write the range of ranks that the intervals allow: `2–4`, or `1` where there is no doubt."""
    if line.ranks is None:
        return ""
    low, high = line.ranks
    return str(low) if low == high else f"{low}–{high}"


def shortened(label: str, width: int) -> str:
    """Cut a label that is too long in its middle, because hyper-parameters differ at the end."""
    if len(label) <= width:
        return label
    head = (width - 1) * 2 // 3
    return f"{label[:head]}…{label[len(label) - (width - 1 - head) :]}"


def legend(boards: Sequence[Board]) -> list[str]:
    """Explain the marks that these boards use, and say what limits the comparison."""
    lines = [line for board in boards for line in board.lines]
    cells = [cell for line in lines for cell in line.cells.values()]
    notes = []
    if any(cell.mark == "tied" for cell in cells):
        notes.append("≈ not distinguishable from the best of its column: the 95 % intervals overlap")
    if any(line.at_floor for line in lines):
        notes.append("⌊ not better than every floor (none, or what needs no model): nothing shows that it learned")
    if any(cell.interval_unknown for cell in cells):
        notes.append("† no interval: it was timed in one process, and is told apart from nothing")
    if any(cell.counted for cell in cells):
        notes.append("* FLOPs as PyTorch's counter saw them: the mechanism states no closed form")
    if any(line.rank for line in lines):
        notes.append("rank: the range that the 95 % intervals allow; ±: the interval's longer arm, of costs in percent")
    if any(line.kind == "control" for line in lines):
        notes.append("control: what it reads does not depend on the queries, or it needs no model; never ranked")
    if machines := machines_beside(boards):
        notes.append(
            f"{MARK.strip()}: not of this store, measured beforehand over three seeds on {'; '.join(machines)}"
        )
    if any(line.kind == "leaky" for line in lines):
        notes.append("leaky: its outputs depend on tokens that the pattern forbids; not ranked")
    if any(line.grade == "extension" for line in lines):
        notes.append("extension: its authors did not define it for this pattern")
    not_comparable = [board for board in boards if NOT_COMPARABLE in str(board.question["data_source"])]
    if not_comparable:
        names = ", ".join(dict.fromkeys(map(data_name, not_comparable)))
        notes.append(f"not comparable with published numbers: scores on the data {names}")
    if any(board.score_machines > 1 for board in boards):
        notes.append("scores, FLOPs and parameters come from several machines; times and memory never do")
    return notes + _seed_notes(boards)


def _seed_notes(boards: Sequence[Board]) -> list[str]:
    scores = [
        line.cells[board.headline.name]
        for board in boards
        if board.has_scores
        for line in board.lines
        if board.headline.name in line.cells
    ]
    seed_counts = {cell.seeds_asked for cell in scores if cell.value is not None}
    notes = []
    if any(count > 1 for count in seed_counts):
        notes.append("several seeds: their mean; the interval adds the spread over seeds to that within a seed")
    if 1 in seed_counts:
        notes.append("one seed: the interval covers the test examples, not what another seed would have learned")
    return notes


def with_method() -> dict[str, str]:
    """Return metric -> how it is measured, of the meters that `cab show metric=` knows."""
    method_of: dict[str, str] = {}
    for card in cards_of("meter").values():
        if not isinstance(card, Exception):
            method_of.update(dict.fromkeys(card.facts["metrics"], card.facts["method"]))
    return method_of


def methods(boards: Sequence[Board]) -> list[str]:
    """Say how each metric was measured, in the words of its meter."""
    method_of = with_method()
    metrics_by_method: dict[str, list[str]] = {}
    for metric in metrics_of(boards):
        if method_of.get(metric.name):
            metrics_by_method.setdefault(method_of[metric.name], []).append(metric.name.replace("_", " "))
    notes = [f"{', '.join(names)}: {method}" for method, names in metrics_by_method.items()]
    return notes + _process_notes(boards)


def _process_notes(boards: Sequence[Board]) -> list[str]:
    notes = []
    for name in dict.fromkeys(metric.name for board in boards for metric in board.metrics if metric.unit == "seconds"):
        cells = [line.cells[name] for board in boards for line in board.lines if name in line.cells]
        counts = sorted({cell.processes for cell in cells if cell.value is not None})
        if counts:
            count = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
            notes.append(f"{name}: each value rests on {count} process{'' if counts == [1] else 'es'}")
    return notes
