"""Which slots of CAB's tasks measure attention at a scale, by a measurement that ships with the project once made.

`cab run grid=cab_floors` trains softmax and `none` in every slot, over three seeds; its rows, as `cab report` writes
them, belong into results/reference/cab-floors. Where `none` is within the interval of softmax, or better, the slot's
scores say nothing of mechanisms: such a board is marked, and counts in no aggregate. No board is marked while that
folder does not exist: results/reference/README.md says whether it was measured.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.analysis.leaderboard import Board, Cell
from cab.analysis.ranking import leaderboard
from cab.paths import beside

if TYPE_CHECKING:
    from pandas import DataFrame

FILE = Path("reference") / "cab-floors" / "results.parquet"  # below results
# columns of a question that must agree, beside the settings of the model and the data
_SLOT = ("task", "pattern", "scale", "n", "m", "heads", "dim", "task_version", "data_source", "protocol")
_Slot = tuple[Any, ...]


def measures_attention(board: Board) -> bool | None:
    """Whether the slot of a board measures attention at its scale; None where it was not measured.

    The recipe and the seeds may be others than those of the measurement; sizes, data and hyper-parameters may not.
    """
    return _slots().get(_slot(board)) if board.has_scores else None


def slots_of(rows: "DataFrame") -> dict[_Slot, bool]:
    """Return, for each slot with softmax and `none` among some rows, whether softmax is beyond doubt the better.

    The interval is that over seeds and test examples, of softmax's best line; the metric is the headline.
    """
    return {
        _slot(board): _differs(board)
        for board in leaderboard(rows)
        if board.has_scores and {"softmax", "none"} <= {line.mechanism for line in board.lines if _value(board, line)}
    }


@lru_cache
def _slots() -> dict[_Slot, bool]:
    path = beside("results") / FILE
    if not path.is_file():
        return {}
    import pandas as pd

    return slots_of(pd.read_parquet(path))


def _slot(board: Board) -> _Slot:
    settings = json.loads(board.question["settings"] or "{}")
    own = json.dumps([settings.get("task"), settings.get("others")], sort_keys=True)
    return (*(board.question[name] for name in _SLOT), own)


def _value(board: Board, line: Any) -> bool:
    cell = line.cells.get(board.headline.name)
    return cell is not None and cell.value is not None


def _differs(board: Board) -> bool:
    """Whether `none` is worse than the whole interval of softmax."""
    sign = 1 if board.headline.higher_is_better else -1

    def best(mechanism: str) -> Cell:
        cells = [line.cells[board.headline.name] for line in board.lines if line.mechanism == mechanism]
        return max((cell for cell in cells if cell.value is not None), key=lambda cell: sign * (cell.value or 0.0))

    softmax, none = best("softmax"), best("none")
    assert none.value is not None
    low, high = softmax.interval
    return none.value < low if sign > 0 else none.value > high
