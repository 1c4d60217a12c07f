"""Who is told how a run goes: a progress bar, lines on plain output, or nobody."""

from collections.abc import Sequence
from typing import Protocol

from cab.planning.measurement import Measurement


class Listener(Protocol):
    """What a supervisor tells while it works."""

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement]) -> None:
        """All that was asked for, and what of it is still to be measured."""

    def doing(self, what: str) -> None:
        """What runs now, in a line."""

    def step(self, children: int) -> None:
        """That so many child processes are over."""

    def done(self, measurement: Measurement, status: str, reason: str) -> None:
        """How a measurement ended."""

    def note(self, text: str) -> None:
        """What a user should know."""
