"""The surroundings that a law builds its subject in: a sequence in the first layer, a later layer, rasters.

A mistake that stands behind `if slot.layer` or `if slot.raster` is seen only where a slot has a layer or a raster.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from cab.contracts.pattern import Pattern
from cab.contracts.rasters import Layout

# Odd lengths: blocks of 2, 3, 4, 8 and 16 tokens are crossed, and the last one is only partly filled.
N, M, LONG_M, MAX_LEN = 37, 29, 51, 61
TOKENS, SOURCE_TOKENS = 301, 203  # odd, and longer than the default blocks
# number of axes -> a small raster of queries and one of keys; and those for hyper-parameters' defaults
_SMALL = {2: ((6, 7), (5, 7)), 3: ((2, 4, 5), (3, 2, 5))}
_LARGE = {2: ((7, 43), (7, 29)), 3: ((5, 6, 10), (5, 5, 8))}


@dataclass(frozen=True)
class Setting:
    """Changes of a slot, and the lengths (queries, keys) that the laws draw there; the first pair is the usual one."""

    name: str
    slot: dict[str, Any] = field(hash=False)
    lengths: tuple[tuple[int, int], ...]
    layout: Layout = (1, 1)

    @property
    def raster(self) -> bool:
        """Whether queries or keys lie on a raster."""
        return "raster" in self.slot or "source_raster" in self.slot


def sequence(pattern: Pattern) -> Setting:
    """A sequence in the first layer; in cross patterns with fewer keys than queries, and with more."""
    return Setting("sequence", {"max_len": MAX_LEN}, ((N, M), (N, LONG_M)) if pattern.cross else ((N, N),))


def later_layer(pattern: Pattern) -> Setting:
    """Layer 3 of 4, with rotary positions; in cross patterns the longest source is longer than the longest target.

    Layers count from 0. It is late, odd and the last one: a mistake may begin in any later layer, or in every second
    one, or be in the last alone.
    """
    slot: dict[str, Any] = {"max_len": MAX_LEN, "layer": 3, "layers": 4, "rotary": 10000.0}
    if pattern.cross:
        slot["source_len"] = MAX_LEN + 12
    return Setting("layer 3 of 4, rotary", slot, sequence(pattern).lengths)


def default_sizes(pattern: Pattern, layout: Layout) -> Setting:
    """As long as default hyper-parameters need: 301 tokens, or some 300 on a raster."""
    if layout == (1, 1):
        return Setting("301 tokens", {"max_len": TOKENS}, ((TOKENS, SOURCE_TOKENS if pattern.cross else TOKENS),))
    return _on_raster(pattern, layout, _LARGE, (TOKENS, SOURCE_TOKENS), (TOKENS, SOURCE_TOKENS))


def longer_slots(pattern: Pattern, layout: Layout) -> Iterator[Setting]:
    """Yield slots of 301 tokens and more, for hyper-parameters that need long ones."""
    yield default_sizes(pattern, layout)
    for side in (32, 64, 128, 256):
        if layout == (1, 1):
            yield Setting(
                f"{side**2} tokens", {"max_len": side**2}, ((TOKENS, SOURCE_TOKENS if pattern.cross else TOKENS),)
            )
        else:
            rasters = {2: ((side, side),) * 2, 3: ((4, side // 2, side // 2),) * 2}
            yield _on_raster(pattern, layout, rasters, (side**2, side**2), (TOKENS, SOURCE_TOKENS))


def on_layout(pattern: Pattern, layout: Layout) -> Setting:
    """Queries and keys on small rasters of these numbers of axes, or as a sequence where the number is 1."""
    return sequence(pattern) if layout == (1, 1) else _on_raster(pattern, layout, _SMALL, (MAX_LEN, MAX_LEN), (N, M))


def _on_raster(
    pattern: Pattern, layout: Layout, rasters: dict[int, Any], longest: tuple[int, int], drawn: tuple[int, int]
) -> Setting:
    """Make the setting; `longest` and `drawn` are the lengths (queries, keys) of what is a sequence."""
    axes, source_axes = layout
    slot: dict[str, Any] = {"max_len": longest[0]}
    if axes > 1:
        slot |= {"raster": rasters[axes][0], "max_len": prod(rasters[axes][0])}
    n = slot["max_len"] if axes > 1 else drawn[0]
    if not pattern.cross:
        return Setting(f"raster {_by(slot['raster'])}", slot, ((n, n), (n - 5, n - 5)), layout)
    slot["source_len"] = longest[1]
    if source_axes > 1:
        slot |= {"source_raster": rasters[source_axes][1], "source_len": prod(rasters[source_axes][1])}
    m = slot["source_len"] if source_axes > 1 else drawn[1]
    name = f"raster {_by(slot.get('raster'))} from {_by(slot.get('source_raster'))}"
    return Setting(name, slot, ((n, m - 6), (n - 5, m)), layout)


def _by(raster: tuple[int, ...] | None) -> str:
    return "x".join(map(str, raster)) if raster else "sequence"
