"""The papers that this project was founded on: which plug-ins cover each title, or why none does.

`literature.csv` holds the titles, in the order of the source: of a title that a plug-in covers what the paper leaves
undefined, if anything (the plug-in is then provisional), of any other the reason why it becomes none. Which mechanism
covers a title stands on the mechanism's card (`titles`).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from cab.errors import UsageError
from cab.plugins import registry
from cab.plugins.cards import Card

TABLE = Path(__file__).with_name("literature.csv")


@dataclass(frozen=True)
class Title:
    """A paper."""

    title: str
    missing: str  # what it leaves undefined, so that its plug-in is provisional
    reason: str  # why it becomes no plug-in; "" where it becomes one
    plugins: tuple[Card, ...]  # the mechanisms whose cards name it

    @property
    def verdict(self) -> str:
        """Say in a sentence's part what became of it: "swin, masked", "swin, provisional: ...", or "none: why"."""
        if not self.plugins:
            return f"none: {self.reason or 'not written yet'}"
        names = ", ".join(card.name for card in self.plugins)
        return f"{names}, provisional, undefined is {self.missing}" if self.missing else names


def literature() -> list[Title]:
    """Return all titles. A mechanism whose card cannot be read covers none."""
    cards = [card for card in registry.cards_of("mechanism").values() if not isinstance(card, UsageError)]
    with TABLE.open(newline="") as file:
        return [
            Title(**row, plugins=tuple(card for card in cards if row["title"] in card.facts["titles"]))
            for row in csv.DictReader(file)
        ]
