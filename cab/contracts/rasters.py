"""Rasters: on how many axes tokens may be laid out. One axis is a sequence, two an image, three a video or a volume.

The card's `rasters` names the numbers of axes that a mechanism takes, for all patterns or by pattern:

    rasters = (1,)                             # sequences alone; the tokens of an image come in raster order
    rasters = {"NS": (1, 2, 3), "CS": (1,)}
    rasters = (((2,), {"bias": "table"}), (1, 2))        # the first entry whose condition on hyper-parameters holds

In cross patterns the source has as many axes as the target, unless `source_rasters` says otherwise in the same form:
then any of the one goes with any of the other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cab.contracts.pattern import Pattern
from cab.contracts.reads import holds

Layout = tuple[int, int]  # the numbers of axes of the queries and of the keys


def entries_of(declared: Any) -> list[tuple[Any, Mapping[str, Any]]]:
    """Return the entries of a declaration, each with its condition on hyper-parameters: {} where it has none."""
    if isinstance(declared, Mapping) or all(isinstance(axes, int) for axes in declared):
        return [(declared, {})]
    return [
        (entry[0], entry[1])
        if len(entry) == 2 and isinstance(entry, tuple | list) and isinstance(entry[1], Mapping)
        else (entry, {})
        for entry in declared
    ]


def axes_of(declared: Any, pattern: str, params: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the numbers of axes that a declaration names for a pattern with these hyper-parameters.

    A pattern that it leaves out has sequences.
    """
    declared = next((entry for entry, condition in entries_of(declared) if holds(condition, params)), (1,))
    if isinstance(declared, Mapping):
        declared = declared.get(pattern, (1,))
    return tuple(declared)


def layouts(
    rasters: Any, source_rasters: Any, pattern: Pattern, params: Mapping[str, Any] | None = None
) -> tuple[Layout, ...]:
    """Return every layout of queries and keys that a card with these declarations takes in a pattern.

    `params` are all hyper-parameters.
    """
    params = params or {}
    target = axes_of(rasters, pattern.value, params)
    if not pattern.cross or source_rasters is None:
        return tuple((axes, axes) for axes in target)
    return tuple((axes, of_source) for axes in target for of_source in axes_of(source_rasters, pattern.value, params))


def layout_of(raster: Sequence[int] | None, source_raster: Sequence[int] | None) -> Layout:
    """Return the layout of a slot's, or a case's, rasters."""
    return len(raster) if raster else 1, len(source_raster) if source_raster else 1


def describe(accepted: Sequence[Layout]) -> str:
    """Say in words which layouts are taken."""
    names = {1: "sequences", 2: "rasters of 2 axes", 3: "rasters of 3 axes"}

    def one(layout: Layout) -> str:
        target, source = (names.get(axes, f"rasters of {axes} axes") for axes in layout)
        return target if target == source else f"{target} that read {source}"

    return " or ".join(dict.fromkeys(map(one, accepted)))
