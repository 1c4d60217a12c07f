"""Varied-size window attention (Zhang et al., arXiv 2204.08446): windows move and scale what they read.

The raster is cut into windows of `window` = M places along each axis. Let x_w be the mean of a window's tokens. A
window w with its middle at c_w reads, in each head, keys and values at M^axes places (equations 3 to 5):

    (scale, offset) = W LeakyReLU(x_w) + b,   p_t = c_w + t (1 + scale) + offset (side - 1) / (2 windows)

t is the place of a token from the middle of its window, side the raster's length along an axis, and windows the number
of windows along it. Keys and values are interpolated linearly, and zero beyond the raster. Then a query of the window
computes softmax_t(q k(p_t) / sqrt(dim) + B) v(p_t), where B is a learned number for each offset (Swin's, `bias`). At
first scale and offset are zero: Swin's windows.

- NS: native on images; sequences and volumes are ours. The side of a sequence is the slot's.
- NC (ours): a query stands at a place of the source, in proportion to the sides of both rasters. The queries in a
  window of the source move what they read.
- CS, CC: refused, because the mean of a window holds later queries.

A place beside which there is no token is left out, where the authors' code lets keys of zero take weight. Their
depth-wise convolution over positions belongs to the block around.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism
from cab.ops.interpolation import corners, weighted_rows
from cab.ops.precision import at_least_float32
from cab.ops.raster_places import centres, places
from cab.ops.raster_windows import AlignedWindows, window_means
from cab.ops.relative_bias import TableBias, biased_attention
from cab.ops.softmax import explicit_attention, masked_softmax

Maybe = Tensor | None


class Vsa(Mechanism):
    """Every query weighs what its window reads, at places that the window moves and scales."""

    patterns = {"NS": "native", "NC": "extension"}
    ours = ({"axes": (1, 3)},)
    refuses = {
        "CS": "the tokens of a window move together what each of them reads",
        "CC": "the queries of a window move together what each of them reads",
    }
    paper = "arXiv 2204.08446"
    cost = "O(n w d)"
    titles = ("VSA: Learning Varied-Size Window Attention in Vision Transformers",)
    inputs = {"x": ("queries", "real", "width")}
    rasters = (1, 2, 3)
    accepts = {"window": ">= 1"}
    checks = ({"window": 3}, {"window": 4, "bias": False})

    def __init__(self, slot: Any, *, window: int = 7, bias: bool = True) -> None:
        super().__init__(slot)
        source = slot.source_sides
        self.windows = AlignedWindows(slot, tuple(min(window, side) for side in source))
        self.move = nn.Linear(slot.tokens, slot.heads * len(source) * 2)
        nn.init.zeros_(self.move.weight), nn.init.zeros_(self.move.bias)
        self.bias = TableBias(slot.heads, self.windows.window, self.windows.rates) if bias else None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor
    ) -> Tensor:
        """Interpolate what all windows read, and attend in all of them at once."""
        n, m = q.shape[2], k.shape[2]
        raster, location = self._raster(m), self._locations(x, m, query_mask)
        index, weight = corners(location.flatten(2, 3), raster)  # (batch, heads, windows tokens, corners)
        touched = weight
        if key_mask is not None:
            k, v = (t.masked_fill(~key_mask[:, None, :, None], 0.0) for t in (k, v))
            real = key_mask.gather(1, index.flatten(1)).view(index.shape)
            touched = weight * real
        seen = torch.unflatten((touched > 0).any(3), 2, location.shape[2:4]).unsqueeze(3)
        k, v = (torch.unflatten(weighted_rows(t, index, weight), 2, location.shape[2:4]) for t in (k, v))
        attention = explicit_attention if self.bias is None else biased_attention(self.bias())
        return self.windows.join_queries(attention(self.windows.cut_queries(q, m), k, v, seen), n, m)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor
    ) -> Tensor:
        """Weigh every key by its distance from each place that is read, and keep the places of the own window."""
        (n, m), windows = (q.shape[2], k.shape[2]), self.windows
        location = self._locations(x, m, query_mask)
        key = places(windows.source, q.device)[:m]
        near = (1 - (location.flatten(2, 3).unsqueeze(3) - key).abs()).clamp(min=0).prod(4)
        if key_mask is not None:
            near = near * key_mask[:, None, None, :]
        k, v = near.to(k.dtype) @ k, near.to(v.dtype) @ v
        size = torch.tensor(windows.window, device=q.device)
        centre = centres(windows.raster, windows.source, q.device)[:n]
        number, counts = torch.zeros(n, dtype=torch.long, device=q.device), self._counts(m)
        for axis, count in enumerate(counts):
            number = number * count + (centre // size)[:, axis]
        of_place = torch.arange(prod(counts), device=q.device).repeat_interleave(location.shape[3])
        seen = (number[:, None] == of_place) & (near > 0).any(3)[:, :, None, :]
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / self.slot.dim**0.5
        if self.bias is not None:
            offset = (centre % size)[:, None] - places(windows.window, q.device).repeat(prod(counts), 1) + size - 1
            table = torch.unflatten(self.bias.table, 1, self.bias.offsets)
            scores = scores + table[:, *offset.unbind(2)]
        return masked_softmax(scores, seen) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """What moves the windows, and two products over the pairs of each; what is interpolated is gathered."""
        count, size = self.windows.of_keys(m).count, prod(self.windows.window)
        pairs = size**2 * prod(self.windows.rates) * self.slot.heads * (self.slot.dim + self.slot.values)
        return 2.0 * count * (self.move.weight.numel() + pairs)

    def _raster(self, m: int) -> tuple[int, ...]:
        return self.windows.source if len(self.windows.source) > 1 else (m,)

    def _counts(self, m: int) -> list[int]:
        """Return the number of windows along each axis."""
        windows = self.windows.of_keys(m)
        return [side // size for side, size in zip(windows.padded, windows.window, strict=True)]

    def _locations(self, x: Tensor, m: int, query_mask: Maybe) -> Tensor:
        """Return where each head of a window reads, in places of the source: (batch, heads, windows, tokens, axes)."""
        windows, device = self.windows, x.device
        if query_mask is None:
            query_mask = torch.ones(x.shape[:2], dtype=torch.bool, device=device)
        real = windows.cut_queries(query_mask[:, None, :, None], m).squeeze(4)
        mean = window_means(windows.cut_queries(x.unsqueeze(1), m), real)[:, 0]
        moved = self.move(F.leaky_relu(mean).to(x.dtype))
        moved = moved.to(at_least_float32(moved)).unflatten(2, (self.slot.heads, 2, -1)).transpose(1, 2)
        scale, offset = moved.unsqueeze(3).unbind(4)  # (batch, heads, windows, 1, axes)
        size = torch.tensor(windows.window, device=device)
        middle = (size - 1) / 2
        start = places(tuple(self._counts(m)), device) * size
        reach = [
            (side - 1) / (2 * -(-side // length)) for side, length in zip(windows.source, windows.window, strict=True)
        ]
        token = places(windows.window, device) - middle
        return (start + middle).unsqueeze(1) + token * (1 + scale) + offset * torch.tensor(reach, device=device)
