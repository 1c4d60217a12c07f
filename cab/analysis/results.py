"""The two tables of a store with what follows from them, each computed once, when it is first asked for."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cab.analysis.derived_values import EfficiencyLengths
from cab.analysis.efficiency_length import efficiency_lengths
from cab.analysis.growth import growths
from cab.analysis.leaderboard import Board
from cab.analysis.questions import machine_names
from cab.analysis.ranking import leaderboard, reranked
from cab.analysis.selection import Limit, within
from cab.analysis.slot_floors import beside_floors

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Results:
    """`rows` and `environments` are as `cab.store.table` makes them."""

    rows: "DataFrame"
    environments: "DataFrame"
    limits: tuple[Limit, ...] = ()  # lines that exceed one, or have no value for it, are left out
    sort: str = ""  # the metric that lines are ranked by; "": each board's headline
    unfiltered: "DataFrame | None" = None  # the rows that `rows` were chosen from, where they are fewer

    @cached_property
    def boards(self) -> list[Board]:
        """Every board that has a line within the limits."""
        boards = [] if self.rows.empty else leaderboard(self.rows, self.environments)
        boards = [beside_floors(board) for board in boards]
        if not self.limits and not self.sort:
            return boards
        return [narrowed for board in boards if (narrowed := self._narrowed(board)).lines]

    def _narrowed(self, board: Board) -> Board:
        by = next((metric for metric in board.metrics if metric.name == self.sort), None)
        return reranked(board, within(board, self.limits), by)

    @cached_property
    def related_rows(self) -> "DataFrame":
        """The rows of the tasks and patterns of `rows`, with every length, pass and mechanism that filters left out."""
        if self.unfiltered is None:
            return self.rows
        rows = self.unfiltered
        return rows[rows["task"].isin(self.rows["task"]) & rows["pattern"].isin(self.rows["pattern"])]

    @cached_property
    def related_boards(self) -> list[Board]:
        """The boards of `related_rows`, without limits."""
        if self.unfiltered is None and not self.limits and not self.sort:
            return self.boards
        return leaderboard(self.related_rows, self.environments)

    @cached_property
    def all_efficiency_lengths(self) -> EfficiencyLengths:
        """From which length the lines of the boards beat softmax, found among all lengths of the related rows."""
        return EfficiencyLengths(self.related_rows, machine_names(self.environments))

    @cached_property
    def efficiency_lengths(self) -> "DataFrame":
        """From which length each mechanism beats softmax."""
        return efficiency_lengths(self.rows)

    @cached_property
    def growths(self) -> "DataFrame":
        """How each cost grows with the length."""
        return growths(self.rows)

    @cached_property
    def used_environments(self) -> "DataFrame":
        """The environments that rows of the table have."""
        return self.environments[self.environments["environment_id"].isin(self.rows["environment_id"])]

    @cached_property
    def shown_machines(self) -> list[str]:
        """The machines that the lines of the boards were measured on, each once.

        A count that another machine has repeated stands in the rows twice and on the boards once.
        """
        shown = {each for board in self.boards for line in board.lines for each in line.environment_ids}
        return list(dict.fromkeys(name for each, name in self.machines.items() if each in shown))

    @cached_property
    def machines(self) -> dict[str, str]:
        """Environment id -> its machine in one line."""
        return machine_names(self.used_environments)
