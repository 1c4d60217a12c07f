"""Biases of scores that depend on the offset between the places of a query and a key in a window of a raster."""

from math import log2, prod

import torch
from torch import Tensor, nn

from cab.ops.precision import at_least_float32
from cab.ops.raster_places import places
from cab.ops.softmax import BlockAttention, masked_softmax

HIDDEN = 512  # units of the network of `ContinuousBias`


def offset_index(
    window: tuple[int, ...],
    rates: tuple[int, ...],
    before: tuple[int, ...] | None = None,
    after: tuple[int, ...] | None = None,
) -> Tensor:
    """Return for each query of a window and each key in and around it the number of their offset: (queries, keys).

    On an axis of M places the keys are those, `before` more before them and `after` more behind. So an offset is from
    -(M - 1) - after to M - 1 + before. The offsets of all axes are numbered in row-major order. `rates` are the places
    of queries for each key, on each axis.
    """
    index = torch.zeros(1, 1, dtype=torch.long)
    for axis, (side, rate) in enumerate(zip(window, rates, strict=True)):
        first, last = before[axis] if before else 0, after[axis] if after else 0
        query = torch.arange(side * rate) // rate
        offset = query[:, None] - torch.arange(-first, side + last)
        count = first + 2 * side - 1 + last
        index = (
            (index[:, None, :, None] * count + (offset + side - 1 + last)[None, :, None, :]).flatten(2).flatten(0, 1)
        )
    return index


class TableBias(nn.Module):
    """A learned number for each head and offset (Swin Transformer, arXiv 2103.14030, equation 4)."""

    index: Tensor

    def __init__(
        self,
        heads: int,
        window: tuple[int, ...],
        rates: tuple[int, ...],
        before: tuple[int, ...] | None = None,
        after: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        around = zip(window, before or (0,) * len(window), after or (0,) * len(window), strict=True)
        self.offsets = tuple(2 * side - 1 + first + last for side, first, last in around)
        self.table = nn.Parameter(torch.empty(heads, prod(self.offsets)))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", offset_index(window, rates, before, after), persistent=False)
        self.flops = 0.0

    def of_offsets(self) -> Tensor:
        """Return the bias of each offset: (heads, offsets)."""
        return self.table

    def forward(self) -> Tensor:
        """Return the bias of each query and key of a window: (heads, queries, keys)."""
        return self.table[:, self.index]


class ContinuousBias(nn.Module):
    """16 times the sigmoid of a small network of the offset (SwinV2, arXiv 2111.09883, equation 4 and section 3.3).

    Of an offset o on an axis of M places the network reads sign(o) log2(1 + 8 |o| / (M - 1)) / 3.
    """

    index: Tensor
    offsets: Tensor

    def __init__(self, heads: int, window: tuple[int, ...], rates: tuple[int, ...]) -> None:
        super().__init__()
        self.hidden = nn.Linear(len(window), HIDDEN)
        self.out = nn.Linear(HIDDEN, heads, bias=False)
        self.register_buffer("index", offset_index(window, rates), persistent=False)
        largest = torch.tensor([max(side - 1, 1) for side in window])
        offset = 8 * (places(tuple(2 * side - 1 for side in window)) - largest) / largest
        self.register_buffer("offsets", offset.sign() * (1 + offset.abs()).log2() / log2(8), persistent=False)
        self.flops = 2.0 * len(self.offsets) * (len(window) + heads) * HIDDEN

    def of_offsets(self) -> Tensor:
        """Return the bias of each offset: (heads, offsets)."""
        hidden = self.hidden(self.offsets.to(self.hidden.weight.dtype)).relu()
        bias: Tensor = 16 * self.out(hidden).sigmoid().T
        return bias

    def forward(self) -> Tensor:
        """Return the bias of each query and key of a window: (heads, queries, keys)."""
        return self.of_offsets()[:, self.index]


def biased_attention(bias: Tensor) -> BlockAttention:
    """Return softmax attention in blocks (batch, heads, blocks, tokens, ·) with a bias (heads, queries, keys)."""

    def attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        scores = scores.to(at_least_float32(scores)) + bias.unsqueeze(1)  # the bias is not rounded to 16 bits
        return masked_softmax(scores, seen).to(v.dtype) @ v

    return attention
