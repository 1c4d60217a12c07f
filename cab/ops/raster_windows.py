"""Windows on rasters: boxes of neighbouring tokens that attend to each other, in place or shifted."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from cab.contracts.slot import Slot
from cab.ops.precision import at_least_float32
from cab.ops.raster_places import aligned_positions, centres, places


@dataclass(frozen=True)
class RasterWindows:
    """A raster cut into equal boxes (windows), which begin `shift` places after its first one on each axis.

    What stands before the first window is moved to the end (a cyclic shift, Swin Transformer, arXiv 2103.14030, section
    3.2): on each axis there are as many windows as without a shift. So the last window holds tokens from both ends of
    the raster, which are no neighbours: only those with equal `regions` belong together. The last windows are filled up
    to their size. A sequence is a raster with one axis.
    """

    raster: tuple[int, ...]
    window: tuple[int, ...]
    shift: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """The sides, filled up to whole windows."""
        return tuple(-(-side // size) * size for side, size in zip(self.raster, self.window, strict=True))

    @property
    def count(self) -> int:
        """The number of windows."""
        return prod(self.padded) // prod(self.window)

    def times(self, factors: tuple[int, ...]) -> "RasterWindows":
        """Return as many windows of a raster that has, on each axis, so many places for each place of this one."""
        scaled = (
            tuple(size * factor for size, factor in zip(sizes, factors, strict=True))
            for sizes in (self.raster, self.window, self.shift)
        )
        return RasterWindows(*scaled)

    def cut(self, t: Tensor, before: tuple[int, ...] | None = None, after: tuple[int, ...] | None = None) -> Tensor:
        """Cut t (batch, heads, n, size) into windows (batch, heads, windows, tokens, size).

        With `before` and `after` each window also holds so many places before and after it along each axis, so that
        windows overlap; then there is no shift. Zeros fill up the windows, and a missing tail of the raster.
        """
        axes, (batch, heads, n, size) = len(self.raster), t.shape
        t = torch.unflatten(_filled(t, 2, 0, prod(self.raster) - n), 2, self.raster)
        for axis, (side, padded) in enumerate(zip(self.raster, self.padded, strict=True), 2):
            t = _filled(t, axis, 0, padded - side)
        if any(self.shift):
            t = t.roll([-shift for shift in self.shift], list(range(2, 2 + axes)))
        for axis, window in enumerate(self.window):
            more = (before[axis] if before else 0, after[axis] if after else 0)
            t = _overlapping(t, 2 + 2 * axis, window, *more)
        outer, inner = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
        return t.permute(0, 1, *outer, *inner, -1).reshape(batch, heads, self.count, -1, size)

    def cut_mask(
        self,
        mask: Tensor | None,
        t: Tensor,
        before: tuple[int, ...] | None = None,
        after: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Return which tokens of the windows of t (batch, heads, n, size) are real: (batch, 1, windows, tokens).

        mask is (batch, n), None for all. What fills the windows up is not real.
        """
        if mask is None:
            mask = torch.ones(t.shape[0], t.shape[2], dtype=torch.bool, device=t.device)
        return self.cut(mask[:, None, :, None], before, after).squeeze(4)

    def join(self, t: Tensor) -> Tensor:
        """Invert `cut`: t (batch, heads, windows, tokens, size) gives (batch, heads, n, size)."""
        axes, (batch, heads, _, _, size) = len(self.raster), t.shape
        counts = [padded // window for padded, window in zip(self.padded, self.window, strict=True)]
        t = t.reshape(batch, heads, *counts, *self.window, size)
        pairs = [2 + axis + side * axes for axis in range(axes) for side in range(2)]
        t = t.permute(0, 1, *pairs, -1).reshape(batch, heads, *self.padded, size)
        if any(self.shift):
            t = t.roll(self.shift, list(range(2, 2 + axes)))
        for axis, side in enumerate(self.raster, 2):
            t = _first(t, axis, side)
        return t.flatten(2, 1 + axes)

    def regions(self, device: torch.device) -> Tensor:
        """Return a number for each token (windows, tokens): in a window, only equal ones are neighbours."""
        region = torch.zeros(self.raster, dtype=torch.long, device=device)
        for axis, (side, shift) in enumerate(zip(self.raster, self.shift, strict=True)):
            moved = torch.arange(side, device=device) < shift
            region = 2 * region + moved.view(-1, *[1] * (len(self.raster) - 1 - axis))
        return self.cut(region.view(1, 1, -1, 1))[0, 0, :, :, 0]


class AlignedWindows(nn.Module):
    """Windows of the keys of a slot, each with the queries that stand in it (`centres`).

    In self patterns a query stands at its own key. `window` and `shift` are sizes along the axes of the keys' raster.
    A sequence in a self pattern is as long as the tensors, in a cross pattern as long as the slot: where a query stands
    may not depend on the tokens at hand.
    """

    position: Tensor | None  # of each query of a cross pattern, in the raster of the queries' windows

    def __init__(self, slot: Slot, window: tuple[int, ...], shift: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.cross, self.window, self.shift = slot.pattern.cross, window, shift or (0,) * len(window)
        self.raster, self.source = slot.sides, slot.source_sides
        position, self.rates = aligned_positions(self.raster, self.source)  # places of queries for each key
        self.register_buffer("position", position if self.cross else None, persistent=False)

    def of_keys(self, m: int) -> RasterWindows:
        """Return the windows of m keys."""
        raster = self.source if self.cross or len(self.source) > 1 else (m,)
        return RasterWindows(raster, self.window, self.shift)

    def of_queries(self, m: int) -> RasterWindows:
        """Return the windows of the queries, beside those of m keys."""
        return self.of_keys(m).times(self.rates)

    def cut_queries(self, q: Tensor, m: int) -> Tensor:
        """Cut q (batch, heads, n, size) into windows (batch, heads, windows, queries, size), beside those of m keys."""
        windows = self.of_queries(m)
        if self.position is not None:
            free = q.new_zeros(*q.shape[:2], prod(windows.raster), q.shape[3])
            q = free.index_copy(2, self.position[: q.shape[2]], q)
        return windows.cut(q)

    def join_queries(self, t: Tensor, n: int, m: int) -> Tensor:
        """Invert `cut_queries`, for n queries and m keys."""
        t = self.of_queries(m).join(t)
        return t if self.position is None else t.index_select(2, self.position[:n])

    def numbers(self, n: int, m: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Return a number for the window of each of n queries and m keys: (n,) and (m,)."""
        where = torch.cat([centres(self.raster, self.source, device)[:n], places(self.source, device)[:m]])
        window, shift = (torch.tensor(sizes, device=device) for sizes in (self.window, self.shift))
        along_axes = (where - shift).div(window, rounding_mode="floor")
        number = torch.unique(along_axes, dim=0, return_inverse=True)[1]
        return number[:n], number[n:]

    def pairs(self, n: int, m: int) -> int:
        """Count the pairs of n queries and m keys that share a window."""
        queries, keys = (number.bincount(minlength=n + m) for number in self.numbers(n, m))
        return int((queries * keys).sum())


def window_means(t: Tensor, real: Tensor) -> Tensor:
    """Return the mean of the real tokens of each window, in float32 at least: (batch, heads, windows, size).

    t is (batch, heads, windows, tokens, size), real is (batch, 1, windows, tokens). Of no token it is zero.
    """
    total = t.masked_fill(~real.unsqueeze(4), 0.0).sum(3, dtype=at_least_float32(t))
    return total / real.sum(3).clamp(min=1).unsqueeze(3)


def _filled(t: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Put so many zeros before and after t along an axis."""
    if not before and not after:
        return t
    zeros = [t.new_zeros(*t.shape[:axis], count, *t.shape[axis + 1 :]) for count in (before, after)]
    return torch.cat([zeros[0], t, zeros[1]], axis)  # `F.pad` of a mask does not compile (torch 2.13)


def _overlapping(t: Tensor, axis: int, window: int, before: int, after: int) -> Tensor:
    """Split an axis of whole windows into windows, each with so many places more: (..., windows, places, ...).

    It concatenates slices of whole windows: the gradient of `unfold` is several times slower.
    """
    width = before + window + after
    count, spanned = t.shape[axis] // window, -(-width // window)
    t = _filled(t, axis, before, (spanned - 1) * window - before)
    t = torch.unflatten(t, axis, (-1, window))
    if spanned == 1:  # a slice of all would copy its gradient into zeros
        return t
    slices = [t.narrow(axis, i, count).narrow(axis + 1, 0, min(window, width - i * window)) for i in range(spanned)]
    return torch.cat(slices, axis + 1)


def _first(t: Tensor, axis: int, count: int) -> Tensor:
    """Return the first places along an axis; of all no slice, whose gradient would be copied into zeros."""
    return t if count == t.shape[axis] else t.narrow(axis, 0, count)
