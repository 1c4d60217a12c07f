"""Where a native pattern is ours after all: on other rasters, with other hyper-parameters, or with rotary positions.

ours = (
    {"axes": (1, 3)},                        # of the queries: a sequence has one axis, an image two, a volume three
    {"source_axes": (1,)},                   # of the keys
    {"rotary": True},                        # in a self pattern of a model with rotary positions
    {"query": True, "patterns": ["NS"]},     # these hyper-parameters, in these patterns
    {"policy": "h2o", "page": {"not": 1}},   # conditions as in `cab.contracts.reads`; all of an entry must hold
)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cab.contracts.reads import holds
from cab.contracts.slot import Slot


def is_ours(ours: Sequence[Mapping[str, Any]], params: Mapping[str, Any], slot: Slot) -> bool:
    """Whether an entry of `ours` holds for a mechanism with these hyper-parameters in this slot.

    `ValueError` names what an entry asks for and the mechanism does not have.
    """
    surroundings = {
        "axes": len(slot.raster or (1,)),
        "source_axes": len(slot.source_sides),
        "rotary": bool(slot.rotary) and not slot.pattern.cross,
        "patterns": slot.pattern.value,
    }
    for entry in ours:
        asked = {name: value for name, value in entry.items() if name not in surroundings}
        unknown = [name for name in asked if name not in params]
        if unknown:
            raise ValueError(f"ours: {entry!r} names {unknown[0]}, which is no hyper-parameter")
        around = {name: value for name, value in entry.items() if name in surroundings}
        if holds(around, surroundings) and holds(asked, params):
            return True
    return False
