"""Who a supervisor tells how a run goes: a progress bar, lines on plain output, or nobody."""

from collections.abc import Sequence
from typing import Protocol

from cab.planning.measurement import Measurement


class Listener(Protocol):
    """What a supervisor calls while it works."""

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement], children: int) -> None:
        """Take all that was asked for, what of it is still to be measured, and in how many child processes."""

    def doing(self, what: str, worker: int | None = None) -> None:
        """Show what runs now, in a line; of several that work side by side each has its own ("": it has ended)."""

    def step(self, measurement: Measurement, children: int, more: int) -> None:
        """Count so many more child processes of a measurement as over, and so many more as still to come."""

    def done(self, measurement: Measurement, status: str, reason: str) -> None:
        """Take how a measurement ended."""

    def note(self, text: str) -> None:
        """Show what a user should know."""
