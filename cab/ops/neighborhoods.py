"""Neighborhoods on rasters, with dilation: which keys are near a query, and tiles of queries that read keys together.

Along an axis, places with equal remainders by the dilation are neighbours of each other. Laid out remainder by
remainder they lie beside each other, so that tiles of them read the keys of the tile and around it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TILE = {1: 32, 2: 8, 3: 4}  # places of a tile along each axis, by the number of axes


class Axis(NamedTuple):
    """How one axis of the keys is laid out, remainder by remainder, and cut into tiles."""

    side: int  # places of the raster
    dilation: int
    length: int  # places for each remainder: whole tiles
    tile: int
    before: int  # places that a tile reads beside its own
    after: int

    @property
    def tiles(self) -> int:
        """The number of tiles."""
        return self.dilation * self.length // self.tile


def axes_of(sides: tuple[int, ...], window: int, dilation: int, causal: bool) -> list[Axis]:
    """Return how the axes of a raster of keys are laid out and cut, for neighborhoods of `window` keys."""
    axes = []
    for side in sides:
        classes = min(dilation, side)
        length, reach = -(-side // classes), min(window, side) - 1
        before, after = (reach, 0) if causal else (reach, reach // 2)
        # the windows of a tile's queries lie within; a window that an end shifts reaches further back
        tile = max(TILE[len(sides)], (reach + 1) // 2 + 1)
        if before + tile + after >= length:
            tile, before, after = length, 0, 0
        axes.append(Axis(side, classes, -(-length // tile) * tile, tile, before, after))
    return axes


def laid_out(place: Tensor, rates: tuple[int, ...], axes: list[Axis]) -> Tensor:
    """Return where tokens stand once the axes are laid out, with `rates` tokens to each place of a key."""
    out, stride = torch.zeros_like(place), 1
    for axis, rate in reversed(list(zip(axes, rates, strict=True))):
        along = place % (axis.side * rate)
        place = place // (axis.side * rate)
        key = along // rate
        key = key % axis.dilation * axis.length + key // axis.dilation
        out = out + (key * rate + along % rate) * stride
        stride *= axis.dilation * axis.length * rate
    return out


def seen_in_tiles(axes: list[Axis], rates: tuple[int, ...], sides: Tensor, window: int, causal: bool) -> Tensor:
    """Return which keys around its tile a query sees: (1 or batch, tiles, queries, keys)."""
    seen = torch.ones(len(sides), 1, 1, 1, dtype=torch.bool, device=sides.device)
    for number, (axis, rate) in enumerate(zip(axes, rates, strict=True)):
        start = torch.arange(axis.tiles, device=sides.device)[:, None, None] * axis.tile
        remainder, start = start // axis.length, start % axis.length
        query = start + (torch.arange(axis.tile * rate, device=sides.device) // rate)[:, None]
        key = start - axis.before + torch.arange(axis.before + axis.tile + axis.after, device=sides.device)
        near = within(query, key, remainder, sides[:, number, None, None, None], axis.dilation, window, causal)
        near = seen[:, :, None, :, None, :, None] & near[:, None, :, None, :, None, :]
        seen = near.flatten(5).flatten(3, 4).flatten(1, 2)
    return seen


def within(
    query: Tensor, key: Tensor, remainder: Tensor, side: Tensor, dilation: int, window: int, causal: bool
) -> Tensor:
    """Whether a key is in the neighborhood of a query, both numbered among the places with their remainder."""
    count = (side - remainder - 1) // dilation + 1
    if causal:
        return (key >= 0) & (key <= query) & (key > query - window) & (key < count)
    first = torch.minimum(query - window // 2, count - window).clamp(min=0)
    return (key >= first) & (key < first + window) & (key < count)
