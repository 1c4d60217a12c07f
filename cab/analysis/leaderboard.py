"""A leaderboard's parts: a board of lines, a line of cells, and the metrics that are its columns."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cab.contracts.case import worst

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Metric:
    """A column."""

    name: str
    unit: str
    higher_is_better: bool | None
    scores: bool  # a task's own score, and not what the mechanism cost


@dataclass
class Cell:
    """One metric of one mechanism, over its seeds."""

    status: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reasons: list[str] = field(default_factory=list)
    seeds: int = 0  # that gave a number
    asked: int = 1
    processes: int = 1
    stopped: list[str] = field(default_factory=list)  # why it ended before it converged
    unsure: bool = False  # it has no interval yet, of one process: it cannot be told from any other
    mark: str = ""  # "best", "tied" (its interval overlaps the best's), or nothing

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval; the value itself where it is exact."""
        assert self.value is not None
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)

    def overlaps(self, other: "Cell") -> bool:
        """Whether the two intervals share a value, so that the two cannot be told apart."""
        if self.unsure or other.unsure:
            return True
        (low, high), (other_low, other_high) = self.interval, other.interval
        return low <= other_high and other_low <= high


@dataclass
class Line:
    """A mechanism with its hyper-parameters and backend."""

    mechanism: str
    params: dict[str, Any]
    backend: str
    grade: str
    kind: str  # "ranked", "floor" or "leaky"; the last two have no rank
    cells: dict[str, Cell]
    label: str = ""
    rank: int | None = None
    at_floor: bool = False  # its interval reaches a floor's: it has not shown that it learned

    @property
    def status(self) -> str:
        """The worst of its metrics."""
        return worst(cell.status for cell in self.cells.values())


@dataclass
class Board:
    """Lines that answer one question on one machine, best first."""

    question: dict[str, Any]
    machine: str
    metrics: list[Metric]
    headline: Metric  # what the ranking is by
    lines: list[Line]
    score_machines: int = 1  # how many machines the scores come from

    @property
    def scores(self) -> bool:
        """Whether something was learned here, and not only timed."""
        return self.headline.scores

    def frame(self) -> "DataFrame":
        """Return the lines as a table; each metric gives its value, interval, mark and status."""
        import pandas as pd

        table = []
        for line in self.lines:
            row: dict[str, Any] = {
                "rank": line.rank,
                "mechanism": line.mechanism,
                "params": line.params,
                "backend": line.backend,
            }
            row |= {"grade": line.grade, "kind": line.kind, "status": line.status}
            for metric in self.metrics:
                cell = line.cells.get(metric.name, Cell("skipped"))
                row |= {metric.name: cell.value, f"{metric.name}_low": cell.low, f"{metric.name}_high": cell.high}
                row |= {f"{metric.name}_mark": cell.mark, f"{metric.name}_status": cell.status}
            table.append(row)
        return pd.DataFrame(table)
