"""Who is told how a run goes: a progress bar, lines on plain output, or nobody."""

from collections.abc import Sequence
from typing import Protocol

from cab.planning.plan import Item


class Listener(Protocol):
    """Who is told how the run goes."""

    def start(self, items: Sequence[Item], pending: Sequence[Item]) -> None: ...

    def doing(self, what: str) -> None: ...

    def step(self, children: int) -> None: ...

    def done(self, item: Item, status: str, reason: str) -> None: ...

    def note(self, text: str) -> None: ...
