"""Which slots of CAB's tasks measure attention at a scale, by a measurement that ships with the project once made.

`cab run grid=cab_floors` trains softmax, `mean` and `none` in every slot, over three seeds; its rows, as `cab report`
writes them, belong into results/reference/cab-floors. Where `none` is within the interval of softmax, or better, the
slot's scores say nothing of mechanisms: such a board is marked, and counts in no aggregate. Its lines stand on boards
that have none of their own, marked by the folder's name and without a rank. No board is marked while that folder does
not exist: results/reference/README.md says whether it was measured.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.analysis.leaderboard import Board, Cell
from cab.analysis.questions import QUESTION, describe_machine
from cab.analysis.ranking import leaderboard, reranked
from cab.paths import beside

if TYPE_CHECKING:
    from pandas import DataFrame

FILE = Path("reference") / "cab-floors" / "results.parquet"  # below results
# columns of a question that must agree, beside the settings of the model and the data
_SLOT = ("task", "pattern", "scale", "n", "m", "heads", "dim", "task_version", "data_source", "protocol")
_Slot = tuple[Any, ...]
MARK = f" [{FILE.parent.name}]"  # behind the name of what it has measured, on the boards of others


@dataclass(frozen=True)
class _Shipped:
    """The measurement: what became of each slot, its boards by their recipe, and its machines."""

    slots: dict[_Slot, bool] = field(default_factory=dict)
    boards: dict[_Slot, Board] = field(default_factory=dict)
    machines: tuple[str, ...] = ()


def measures_attention(board: Board) -> bool | None:
    """Whether the slot of a board measures attention at its scale; None where it was not measured.

    The recipe and the seeds may be others than those of the measurement; sizes, data and hyper-parameters may not.
    """
    return _shipped().slots.get(_slot(board)) if _is_measured(board) else None


def beside_floors(board: Board) -> Board:
    """Return the board with those of softmax, `mean` and `none` that it lacks, as the measurement has them.

    They are controls. Only a measurement with the same recipe stands there; its seeds may be others.
    """
    measured = _shipped().boards.get(_recipe(board)) if _is_measured(board) else None
    own = {line.mechanism.removesuffix(MARK) for line in board.lines}  # with --beside the folder itself
    lines = [
        # what would look it up or repeat it finds nothing of another store
        replace(
            line, mechanism=line.mechanism + MARK, label=line.label + MARK, kind="control", case_ids=[], seeds=[],
            environment_ids=set(), ranks=None,
        )
        for line in (measured.lines if measured else ())
        if line.mechanism not in own and _value(board, line)
    ]  # fmt: skip
    return reranked(board, [*board.lines, *lines]) if lines else board


def machines_beside(boards: Sequence[Board]) -> tuple[str, ...]:
    """Return the machines of the measurement where one of the boards has a line of it."""
    shown = any(line.mechanism.endswith(MARK) for board in boards for line in board.lines)
    return _shipped().machines if shown else ()


def slots_of(rows: "DataFrame") -> dict[_Slot, bool]:
    """Return, for each slot with softmax and `none` among some rows, whether softmax is beyond doubt the better.

    The interval is that over seeds and test examples, of softmax's best line; the metric is the headline.
    """
    return _slots_of(leaderboard(rows))


def _slots_of(boards: Sequence[Board]) -> dict[_Slot, bool]:
    return {
        _slot(board): differs_from_none(board) for board in boards if board.has_scores and has_floor_and_ceiling(board)
    }


def has_floor_and_ceiling(board: Board) -> bool:
    """Whether both `none` and softmax have a value of the headline."""
    return {"softmax", "none"} <= {line.mechanism for line in board.lines if _value(board, line)}


def differs_from_none(board: Board) -> bool:
    """Whether `none` is worse than the whole interval of softmax."""
    sign = 1 if board.headline.higher_is_better else -1

    def best(mechanism: str) -> Cell:
        cells = [line.cells[board.headline.name] for line in board.lines if line.mechanism == mechanism]
        return max((cell for cell in cells if cell.value is not None), key=lambda cell: sign * (cell.value or 0.0))

    softmax, none = best("softmax"), best("none")
    assert none.value is not None
    low, high = softmax.interval
    return none.value < low if sign > 0 else none.value > high


def _is_measured(board: Board) -> bool:
    """Whether the task's slots were measured: to read the whole measurement takes .2 s, its tasks .02 s."""
    return board.has_scores and board.question["task"] in _tasks()


@lru_cache
def _tasks() -> frozenset[str]:
    path = beside("results") / FILE
    if not path.is_file():
        return frozenset()
    import pandas as pd

    return frozenset(pd.read_parquet(path, columns=["task"])["task"])


@lru_cache
def _shipped() -> _Shipped:
    path = beside("results") / FILE
    if not path.is_file():
        return _Shipped()
    import pandas as pd

    boards = leaderboard(pd.read_parquet(path))
    environments = path.with_name("environments.json")
    facts = json.loads(environments.read_text())["environments"].values() if environments.is_file() else ()
    machines = tuple(dict.fromkeys(describe_machine(each) for each in facts))
    return _Shipped(_slots_of(boards), {_recipe(board): board for board in boards}, machines)


def _slot(board: Board) -> _Slot:
    settings = json.loads(board.question["settings"] or "{}")
    own = json.dumps([settings.get("task"), settings.get("others")], sort_keys=True)
    return (*(board.question[name] for name in _SLOT), own)


def _recipe(board: Board) -> _Slot:
    settings = {
        name: value for name, value in json.loads(board.question["settings"] or "{}").items() if name != "threads"
    }
    return (*(board.question[name] for name in QUESTION if name != "settings"), json.dumps(settings, sort_keys=True))


def _value(board: Board, line: Any) -> bool:
    cell = line.cells.get(board.headline.name)
    return cell is not None and cell.value is not None
