"""The settings of a question: nested JSON with a value for everything that has no column of its own."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cab.analysis.leaderboard import Board


def settings_of(board: Board) -> str:
    """Return a board's settings as canonical JSON."""
    return str(board.question["settings"] or "{}")


def flat_settings(settings: str) -> dict[str, Any]:
    """Return each key as it is written on the command line -> value: `{"training": {"lr": 0.1}}` gives `training.lr`.

    What stands in a task's other slots is a setting of its own, `others`, and written `task.others`.
    """
    flat = dict(_flatten(json.loads(settings)))
    return {"task.others" if name == "others" else name: value for name, value in flat.items()}


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def differing_settings(boards: Sequence[Board]) -> dict[str, dict[str, Any]]:
    """Return each board's settings (canonical JSON) -> the values that are not the same on all boards, by dotted name.

    A name without a value, or with None, is left out.
    """
    flat = {settings: flat_settings(settings) for settings in dict.fromkeys(map(settings_of, boards))}
    names = dict.fromkeys(name for values in flat.values() for name in values)
    differing = [name for name in names if len({str(values.get(name)) for values in flat.values()}) > 1]
    return {
        settings: {name: values[name] for name in differing if values.get(name) is not None}
        for settings, values in flat.items()
    }
