"""What a user's own keys mean for the blocks of a named grid, each of which holds mechanisms of its own."""

from collections.abc import Callable, Iterator
from typing import Any

from cab.planning.hyperparameters import INNER, Axes
from cab.plugins.cards import Card

Find = Callable[[str], tuple[Card, dict[str, Any]]]  # the card behind a mechanism's name, and its hyper-parameters


def narrowed(blocks: list[Axes], own: Axes, find: Find) -> Iterator[Axes | None]:
    """Yield the user's keys for each block, with those of the user's mechanisms that are its; None where none is.

    Keys of a mechanism that stands in other blocks alone are left out.
    A mechanism that no block names, as a user's own file, joins the first block that asks for no backend, or the first.
    """
    named = {name for block in blocks for name in block.get("mechanism", ())}
    home = min((block for block in blocks if "mechanism" in block), key=lambda block: "backend" in block, default=None)
    for block in blocks:
        if "mechanism" not in block:
            yield own
            continue
        chosen = own.get("mechanism", sorted(named, key=str))
        mine = [name for name in chosen if name in block["mechanism"] or (name not in named and block is home)]
        mine = mine if "mechanism" in own else block["mechanism"]  # in the block's own order
        others = [name for name in chosen if name not in mine]
        keys = {k: values for k, values in own.items() if not _of_others(k, mine, others, find)}
        yield {**keys, "mechanism": mine} if mine else None


def _of_others(key: str, mine: list[Any], others: list[Any], find: Find) -> bool:
    """Whether a key is of a mechanism that stands in other blocks alone, or of what such a one wraps."""
    if key == INNER or key.startswith("mechanism.inner."):
        return bool(others) and not any(find(str(n))[0].facts["patterns"] == "inner" for n in mine)
    parts = key.split(".")
    return len(parts) == 3 and parts[0] == "mechanism" and parts[1] in _aliases(others, find) - _aliases(mine, find)


def _aliases(mechanisms: list[Any], find: Find) -> set[str]:
    """Return what a key may call these mechanisms: their names and those of their classes."""
    return {alias for name in map(str, mechanisms) for alias in (name, find(name)[0].class_name)}


def scoped_elsewhere(key: str, group: str, chosen: list[Any]) -> bool:
    """Whether a key is a hyper-parameter of one plug-in that is not among the chosen."""
    parts = key.split(".")
    return len(parts) == 3 and parts[0] == group and parts[1] not in chosen
