"""Overlapping cross-attention, HAT's (arXiv 2205.04437, 2309.05239): windows of queries read larger windows of keys.

The raster is cut into windows of `window` = M places along each axis. The queries of a window attend to the keys in it
and to floor(overlap M) places more along each axis, half of them on either side (equations 7 and 8 of the paper):

    softmax(q k^T / sqrt(dim) + B) v

B is a learned number for each offset between a query and a key (Swin's, `bias`).

- NS: native on images; sequences and volumes are ours.
- CS (ours): of its keys, a query sees what comes before it in raster order.
- NC, CC (ours): each query stands at a place of the source, in proportion to the sides of both rasters, and its window
  is the one of that place. It needs no other query.

What lies beyond the raster is masked, where the authors' code lets keys of zero take weight.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern, Unsupported
from cab.ops.raster_places import centres, places
from cab.ops.raster_windows import AlignedWindows
from cab.ops.relative_bias import TableBias, biased_attention
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax, repeat_heads


class Oca(Mechanism):
    """Every query weighs the keys of its window and of a margin around it."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1, 3)},)
    paper = "arXiv 2309.05239"
    cost = "O(n w d)"
    titles = ("HAT: Hybrid Attention Transformer for Image Restoration",)
    rasters = (1, 2, 3)
    grouped = True
    accepts = {"window": ">= 1", "overlap": ">= 0"}
    checks = ({"window": 4}, {"window": 2, "overlap": 2.5, "bias": False})
    limits = (
        {"params": {"window": 1000}, "weights": {"bias.table": 0.0}, "equals": "softmax"},
        {
            "params": {"window": 4, "overlap": 0.0, "bias": False},
            "equals": "swin",
            "equals_params": {"window": 4, "bias": "none"},
        },
    )

    def __init__(self, slot: Any, *, window: int = 16, overlap: float = 0.5, bias: bool = True) -> None:
        super().__init__(slot)
        source = slot.source_sides
        self.windows = AlignedWindows(slot, tuple(min(window, side) for side in source))
        more = [int(overlap * size) for size in self.windows.window]
        self.before, self.after = tuple(size // 2 for size in more), tuple(-(-size // 2) for size in more)
        margin = self.before, self.after
        self.bias = TableBias(slot.heads, self.windows.window, self.windows.rates, *margin) if bias else None

    def use(self, backend: str) -> Mechanism:
        """Refuse fused kernels beside the bias."""
        if backend == "sdpa" and self.bias is not None:
            raise Unsupported("the learned bias of offsets is computed by eager and compile alone")
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in all windows at once."""
        attention = explicit_attention if self.bias is None else biased_attention(self.bias())
        return self._in_windows(attention, q, k, v, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the windows with PyTorch's fused kernels."""
        return self._in_windows(fused_attention, q, k, v, key_mask)

    def _in_windows(
        self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None
    ) -> Tensor:
        n, m = q.shape[2], k.shape[2]
        windows, margin = self.windows.of_keys(m), (self.before, self.after)
        seen = windows.cut_mask(key_mask, k, *margin).unsqueeze(3)  # (batch, 1, windows, 1, keys)
        if self.slot.pattern is Pattern.CS:
            number = torch.arange(m, device=q.device)[None, None, :, None]
            query, key = windows.cut(number), windows.cut(number, *margin)
            seen = seen & (key.transpose(3, 4) <= query)
        k, v = (windows.cut(repeat_heads(t, self.slot.heads), *margin) for t in (k, v))
        return self.windows.join_queries(attention(self.windows.cut_queries(q, m), k, v, seen), n, m)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight, and keep those of the keys in and around the window."""
        query, first, last = self._ranges(q.shape[2], q.device)
        key = places(self.windows.source, q.device)[: k.shape[2]]
        seen = ((key >= first[:, None]) & (key <= last[:, None])).all(2)
        if self.slot.pattern is Pattern.CS:
            seen = seen.tril()
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / self.slot.dim**0.5
        if self.bias is not None:
            offset = (query[:, None] - key).masked_fill(~seen.unsqueeze(2), 0)
            most = [size - 1 + after for size, after in zip(self.windows.window, self.after, strict=True)]
            offset = offset + torch.tensor(most, device=q.device)
            scores = scores + torch.unflatten(self.bias.table, 1, self.bias.offsets)[:, *offset.unbind(2)]
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax(scores, seen) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of each window and what is around it, with what fills it up."""
        window, beside = self.windows.window, zip(self.windows.window, self.before, self.after, strict=True)
        pairs = self.windows.of_keys(m).count * prod(window) * prod(self.windows.rates) * prod(map(sum, beside))
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        query, first, last = self._ranges(n)
        sides = torch.tensor(self.windows.of_keys(m).raster)
        first, last = first.clamp(min=0), torch.minimum(last, sides - 1)
        count = torch.ones(n, dtype=torch.long)  # of the keys of each query, from the last axis on
        earlier = torch.ones_like(count)
        for axis in reversed(range(len(sides))):
            earlier = earlier + (query - first)[:, axis] * count
            count = count * (last - first + 1)[:, axis]
        pairs = earlier if self.slot.pattern is Pattern.CS else count
        return 2.0 * self.slot.heads * int(pairs.sum()) * (self.slot.dim + self.slot.values)

    def _ranges(self, n: int, device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the place of each of n queries among the keys, and the first and last that it sees: (n, axes) each."""
        query = centres(self.windows.raster, self.windows.source, device)[:n]
        window, before, after = (
            torch.tensor(sizes, device=device) for sizes in (self.windows.window, self.before, self.after)
        )
        start = query // window * window
        return query, start - before, start + window + after - 1
