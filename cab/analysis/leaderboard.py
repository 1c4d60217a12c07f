"""What a leaderboard is made of: a board has lines, a line has a cell for each metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cab.contracts.case import worst

if TYPE_CHECKING:
    from pandas import DataFrame

# Units of what every mechanism costs, whatever the task. A metric in another unit is a task's own score.
COST_UNITS = (
    "FLOP", "seconds", "ratio", "bytes", "joules", "watts", "parameters", "FLOP/byte", "tokens", "instructions",
)  # fmt: skip
LINE_KINDS = ("ranked", "control", "leaky")  # in the order in which they are shown


@dataclass(frozen=True)
class Metric:
    """A column of a board."""

    name: str
    unit: str
    higher_is_better: bool | None
    is_score: bool  # of the task, rather than a cost of the mechanism

    @property
    def by_difference(self) -> bool:
        """Whether two values are compared by their difference, as scores and shares are, and not by their ratio."""
        return self.is_score or self.unit == "fraction"


@dataclass(slots=True)  # a store may have a million
class Cell:
    """One metric of one line, over its seeds."""

    status: str
    value: float | None = None
    low: float | None = None  # the ends of the 95 % interval; None where the value is exact
    high: float | None = None
    reasons: list[str] = field(default_factory=list)
    seeds: int = 0  # that have a value
    seeds_asked: int = 1
    seed_values: tuple[float, ...] = ()  # of each seed, where there are several
    processes: int = 1
    stop_reasons: list[str] = field(default_factory=list)  # why the measurement ended before it converged
    interval_unknown: bool = False  # a value of one process, which is tied with every other
    mark: str = ""  # "best", "tied" (its interval overlaps the best's) or nothing
    counted: bool = False  # FLOPs of a mechanism without a closed form: what PyTorch's counter saw

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval; the value twice where it is exact."""
        assert self.value is not None
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)

    def overlaps(self, other: "Cell") -> bool:
        """Whether the two intervals overlap, so that the two values cannot be distinguished."""
        if self.interval_unknown or other.interval_unknown:
            return True
        (low, high), (other_low, other_high) = self.interval, other.interval
        return low <= other_high and other_low <= high

    @property
    def relative_half_width(self) -> float | None:
        """The longer arm of the interval as a share of the value; None where there is none."""
        if self.low is None or self.high is None or not self.value:
            return None
        return max(self.value - self.low, self.high - self.value) / abs(self.value)


@dataclass(slots=True)
class Line:
    """A mechanism with its hyper-parameters and backend."""

    mechanism: str
    params: dict[str, Any]
    backend: str
    grade: str
    kind: str  # one of LINE_KINDS; only "ranked" lines have a rank
    cells: dict[str, Cell]  # metric name -> cell
    label: str = ""
    rank: int | None = None
    ranks: tuple[int, int] | None = None  # the lowest and the highest rank that the intervals allow
    case_ids: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    environment_ids: set[str] = field(default_factory=set)  # that its values were measured in
    at_floor: bool = False  # not distinguishable from a floor, or worse: nothing shows that it learned

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for the lines of one mechanism with the same hyper-parameters, backend and grade."""
        return self.mechanism, str(self.params), self.backend, self.grade

    @property
    def status(self) -> str:
        """The worst status of its cells."""
        return worst(cell.status for cell in self.cells.values())


@dataclass
class Board:
    """The lines that answer one question on one machine, best first."""

    question: dict[str, Any]  # column of the rows -> value, for the columns in `cab.analysis.questions.QUESTION`
    machine: str
    metrics: list[Metric]
    headline: Metric  # that the lines are ranked by
    lines: list[Line]
    score_machines: int = 1  # how many machines the scores come from

    @property
    def has_scores(self) -> bool:
        """Whether the lines are ranked by a task's score, rather than by a cost."""
        return self.headline.is_score

    def frame(self) -> "DataFrame":
        """Return the lines as a table. Each metric has columns for its value, interval, mark and status."""
        import pandas as pd

        table_rows = []
        for line in self.lines:
            table_row: dict[str, Any] = {
                "rank": line.rank,
                "rank_low": line.ranks[0] if line.ranks else None,
                "rank_high": line.ranks[1] if line.ranks else None,
                "mechanism": line.mechanism,
                "params": line.params,
                "backend": line.backend,
                "grade": line.grade,
                "kind": line.kind,
                "status": line.status,
            }
            for metric in self.metrics:
                cell = line.cells.get(metric.name, Cell("skipped"))
                table_row[metric.name] = cell.value
                table_row[f"{metric.name}_low"] = cell.low
                table_row[f"{metric.name}_high"] = cell.high
                table_row[f"{metric.name}_mark"] = cell.mark
                table_row[f"{metric.name}_status"] = cell.status
            table_rows.append(table_row)
        return pd.DataFrame(table_rows)


def one_a_question(boards: Iterable[Board]) -> list[Board]:
    """Return one board of each question: scores do not depend on the machine, and stand on the board of each."""
    by_question: dict[str, Board] = {}
    for board in boards:
        by_question.setdefault(str(board.question), board)
    return list(by_question.values())


def metrics_of(boards: Sequence[Board]) -> list[Metric]:
    """Return every metric of some boards once, in their order."""
    return list({metric.name: metric for board in boards for metric in board.metrics}.values())
