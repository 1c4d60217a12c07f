"""Where a pattern whose grade is native is ours after all: on other rasters, or with other hyper-parameters.

ours = (
    {"axes": (1, 3)},                        # a sequence has one axis, an image two, a volume three
    {"query": True, "patterns": ["NS"]},     # these hyper-parameters, in these patterns
    {"policy": "h2o", "page": {"not": 1}},   # conditions as in `cab.contracts.reads`; all of an entry must hold
)
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cab.contracts.reads import holds


def is_ours(ours: Sequence[Mapping[str, Any]], params: Mapping[str, Any], pattern: str, axes: int) -> bool:
    """Whether an entry of `ours` holds for a mechanism with these hyper-parameters, on rasters of so many axes.

    `ValueError` names what an entry asks for and the mechanism does not have.
    """
    for entry in ours:
        asked = {name: value for name, value in entry.items() if name not in ("axes", "patterns")}
        unknown = [name for name in asked if name not in params]
        if unknown:
            raise ValueError(f"ours: {entry!r} names {unknown[0]}, which is no hyper-parameter")
        in_pattern = pattern in entry.get("patterns", (pattern,))
        if in_pattern and axes in entry.get("axes", (axes,)) and holds(asked, params):
            return True
    return False
