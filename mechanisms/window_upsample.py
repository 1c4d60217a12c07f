"""Window attention upsample (Li et al., arXiv 2106.10637), provisional: a fine target reads windows of a coarse source.

The source is cut into windows of `window` places along each axis. A query stands at a place of the source, in
proportion to the sides of both rasters, so that a window of the source has a window of queries beside it:

    y_i = softmax_j(q_i k_j / sqrt(dim)) v_j + v(p_i),   j in the window of i

v(p_i) are the values at the query's place, interpolated linearly between the middles of places (bilinearly on two
axes): the residual of the paper, here before the output projection.

Provisional, because the paper was not at hand: the sizes of its windows, whether it has a bias of positions, and where
its norms stand are missing.

- NC, CC: graded as ours while it is provisional; sequences and volumes are ours in any case. A query needs no other
  one.
- NS, CS: refused, because nothing is finer than itself.

Hidden values are left out of the interpolation; its weights are divided by their sum.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.interpolation import corners, weighted_rows
from cab.ops.precision import at_least_float32
from cab.ops.raster_places import places
from cab.ops.raster_windows import AlignedWindows
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax, repeat_heads


class WindowUpsample(Mechanism):
    """Every query weighs the window of the source that it stands in, beside the interpolated source."""

    patterns = {"NC": "extension", "CC": "extension"}
    refuses = {
        "NS": "the target would be as coarse as its source: that is attention within windows, beside the identity",
        "CS": "the target would be as coarse as its source, and half of each window would lie ahead",
    }
    paper = "arXiv 2106.10637"
    cost = "O(n w d)"
    titles = ("More than Encoder: Introducing Transformer Decoder to Upsample",)
    rasters = (1, 2, 3)
    grouped = True
    accepts = {"window": ">= 1"}
    checks = ({"window": 3}, {"window": 2})

    def __init__(self, slot: Any, *, window: int = 7) -> None:
        super().__init__(slot)
        source = slot.source_sides
        self.windows = AlignedWindows(slot, tuple(min(window, side) for side in source))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in all windows at once, and gather what is interpolated."""
        return self._upsampled(explicit_attention, q, k, v, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the windows with PyTorch's fused kernels."""
        return self._upsampled(fused_attention, q, k, v, key_mask)

    def _upsampled(self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        n, m, windows = q.shape[2], k.shape[2], self.windows.of_keys(k.shape[2])
        k, v = (repeat_heads(t, self.slot.heads) for t in (k, v))
        seen = windows.cut_mask(key_mask, k).unsqueeze(3)
        out = attention(self.windows.cut_queries(q, m), windows.cut(k), windows.cut(v), seen)
        index, weight = corners(self._locations(n, at_least_float32(v), v.device), self.windows.source)
        weight = weight * (index < m)  # a source may be shorter than the slot's
        index, weight = (t.expand(len(v), -1, -1) for t in (index.clamp(max=m - 1), weight))
        if key_mask is not None:
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
            weight = weight * key_mask.gather(1, index.flatten(1)).view(index.shape)
        total = weight.sum(2, keepdim=True)
        share = weight / total.where(total > 0, 1.0)
        of_heads = (t.unsqueeze(1).expand(-1, self.slot.heads, -1, -1) for t in (index, share))
        return self.windows.join_queries(out, n, m) + weighted_rows(v, *of_heads)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight of both terms."""
        n, m = q.shape[2], k.shape[2]
        of_query, of_key = self.windows.numbers(n, m, q.device)
        real = torch.ones_like(of_key, dtype=torch.bool) if key_mask is None else key_mask[0]
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / self.slot.dim**0.5
        weights = masked_softmax(scores, (of_query[:, None] == of_key) & real)
        key = places(self.windows.source, q.device)[:m]
        away = self._locations(n, at_least_float32(v), v.device)[:, None] - key
        near = (1 - away.abs()).clamp(min=0).prod(2) * real
        total = near.sum(1, keepdim=True)
        return (weights + (near / total.where(total > 0, 1.0)).to(v.dtype)) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of each window, with what fills it up; what is interpolated is gathered."""
        windows = self.windows.of_keys(m)
        pairs = windows.count * prod(windows.window) ** 2 * prod(self.windows.rates)
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        return 2.0 * self.slot.heads * self.windows.pairs(n, m) * (self.slot.dim + self.slot.values)

    def _locations(self, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return where n queries stand among the middles of the source's places: (n, axes)."""
        where = places(self.windows.raster, device)[:n].to(dtype)
        axes = []
        for axis, (fine, coarse) in enumerate(zip(self.windows.raster, self.windows.source, strict=True)):
            axes.append(((where[:, axis] + 0.5) * (coarse / fine) - 0.5).clamp(0, coarse - 1))
        return torch.stack(axes, 1)
