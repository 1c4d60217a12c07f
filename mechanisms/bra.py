"""Bi-level routing attention, BiFormer's (Zhu et al., arXiv 2303.08810): regions choose which regions they read.

The raster is cut into `regions` boxes along each axis. Let q_r and k_r be the means of a region's queries and keys. A
region of queries reads the `top` regions of keys with the largest q_r . k_r over the channels of all heads (equations 3
and 4). Of their keys K and values V, each head computes (equations 5 and 6)

    softmax(q K^T / sqrt(heads dim)) V + conv(v),

where conv is depth-wise, over `conv` places along each axis. The choice has no gradient.

- NS: native on images; sequences and volumes are ours. NC: of the same form; both rasters have regions of their own,
  which need not lie alike. No value stands at the place of a query there, so there is no convolution.
- CS (ours): a region chooses by its first query, because a mean holds later ones. It reads `top` - 1 regions before it,
  and of its own what comes before each query. The convolution runs over the last `conv` values.
- CC (ours, on sequences): a region chooses by its first query.

The size of a region is that of the whole raster, or of the longest sequence, divided by `regions`. An axis of fewer
places has a region for each. Masked tokens are in no mean, and a region without tokens is not chosen.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Unsupported
from cab.ops.buckets import gather_tables
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.raster_convolution import RasterConvolution
from cab.ops.raster_places import places
from cab.ops.raster_windows import RasterWindows, window_means
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax
from cab.ops.top_k import top_k


class Bra(Mechanism):
    """Regions of queries read the few regions of keys that suit them best."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    ours = ({"axes": (1, 3), "patterns": ["NS"]},)
    paper = "arXiv 2303.08810"
    titles = ("BiFormer: Vision Transformer with Bi-Level Routing Attention",)
    cost = "O(n m t / s d + s^2 d)"  # t of s regions
    rasters = {"NS": (1, 2, 3), "NC": (1, 2)}
    source_rasters = {"NC": (1, 2), "CC": (1, 2)}
    accepts = {"regions": ">= 1", "top": ">= 1", "conv": "0 or odd, >= 1"}
    checks = ({"regions": 7, "top": 2, "conv": 3}, {"regions": 4, "top": 3, "conv": 0}, {"regions": 3, "top": 20})
    exempt = {"heads": "one choice of regions is made for all heads, from the channels of all"}

    def __init__(self, slot: Any, *, regions: int = 7, top: int = 4, conv: int = 5) -> None:
        super().__init__(slot)
        self.top, self.causal_self = top, slot.pattern is Pattern.CS
        if regions > (fewest := min(prod(slot.sides), prod(slot.source_sides))):
            raise Unsupported(f"regions={regions}: more regions than the {fewest} tokens; give {fewest} or fewer")
        self.boxes = [tuple(-(-side // regions) for side in sides) for sides in (slot.sides, slot.source_sides)]
        self.conv = None
        if conv and not slot.pattern.cross:
            self.conv = RasterConvolution(slot.heads, slot.values, conv, len(slot.sides), self.causal_self)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Gather what each region reads, and attend in all regions at once."""
        return self._routed(explicit_attention, q, k, v, key_mask, query_mask)

    def attend_sdpa(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Compute the regions with PyTorch's fused kernels."""
        return self._routed(fused_attention, q, k, v, key_mask, query_mask)

    def _routed(
        self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Any, query_mask: Any
    ) -> Any:
        of_queries, of_keys = self._regions(q.shape[2], k.shape[2])
        queries, keys, values = of_queries.cut(q), of_keys.cut(k), of_keys.cut(v)
        asks, real = of_queries.cut_mask(query_mask, q), of_keys.cut_mask(key_mask, k)
        chosen, counts = self._choose(queries, keys, asks, real)
        of_heads = chosen.unsqueeze(1).expand(-1, self.slot.heads, -1, -1)
        keys, values = (gather_tables(t, of_heads).flatten(3, 4) for t in (keys, values))
        seen = gather_tables(real, chosen.unsqueeze(1)) & counts[:, None, :, :, None]
        seen = seen.flatten(3).unsqueeze(3)  # (batch, 1, regions, 1, keys)
        if self.causal_self:  # the last region is the own one
            size, width = real.shape[3], seen.shape[4]
            seen = seen & torch.ones(size, width, dtype=torch.bool, device=q.device).tril(width - size)
        out = of_queries.join(attention(queries * self.slot.heads**-0.5, keys, values, seen))
        return out if self.conv is None else out + self.conv(v, of_keys.raster, key_mask)

    def _choose(self, queries: Tensor, keys: Tensor, asks: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return which regions each region reads (batch, regions, chosen), and which of these count."""
        counted = asks & (asks.cumsum(3) == 1) if self.slot.pattern.causal else asks
        with torch.no_grad(), full_precision(queries.device.type):
            of_query, of_key = window_means(queries, counted), window_means(keys, real)
            scores = of_query.transpose(1, 2).flatten(2) @ of_key.transpose(1, 2).flatten(2).mT
        not_empty, own = real.any(3), torch.arange(scores.shape[2], device=scores.device)
        may = not_empty & (own < own[:, None]) if self.causal_self else not_empty
        chosen, counts = top_k(scores, self.top - self.causal_self, may)
        assert counts is not None  # as some regions may be empty
        if self.causal_self:  # the own region comes last
            chosen = torch.cat([chosen, own[:, None].expand(len(chosen), -1, 1)], 2)
            counts = F.pad(counts.int(), (0, 1), value=1).bool()
        return chosen, counts

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Choose for one region after the other, and write every weight."""
        wide, device = at_least_float32(q), q.device
        asks, real = (
            torch.ones(t.shape[2], dtype=torch.bool, device=device) if mask is None else mask[0]
            for t, mask in ((q, query_mask), (k, key_mask))
        )
        of_query, of_key = (
            (places(sides, device) // torch.tensor(box, device=device)).unique(dim=0, return_inverse=True)[1]
            for sides, box in zip((self.slot.sides, self.slot.source_sides), self.boxes, strict=True)
        )
        of_query, of_key = of_query[: len(asks)], of_key[: len(real)]
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for region in of_query[asks].unique().tolist():
            rows = (asks & (of_query == region)).nonzero()[:, 0]
            query = q[0, :, rows[:1] if self.slot.pattern.causal else rows].to(wide).mean(1)
            others = [c for c in of_key[real].unique().tolist() if not self.causal_self or c < region]
            scores = {c: (query * k[0, :, real & (of_key == c)].to(wide).mean(1)).sum().item() for c in others}
            best = sorted(others, key=lambda c: -scores[c])[: self.top - self.causal_self]
            seen = torch.isin(of_key, torch.tensor(best, device=device)).expand(len(rows), -1)
            if self.causal_self:
                seen = seen | ((of_key == region) & (torch.arange(len(real), device=device) <= rows[:, None]))
            weights = torch.einsum("bhid,bhjd->bhij", q[:, :, rows], k) / (self.slot.heads * self.slot.dim) ** 0.5
            out[:, :, rows] = masked_softmax(weights, seen & real) @ v
        if self.conv is not None:
            out = out + self.conv.definition(v, self._regions(len(asks), len(real))[1].raster, key_mask)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores of regions; scores and sums of what each region reads; the convolution."""
        of_queries, of_keys = self._regions(n, m)
        dim, size, rows = self.slot.dim, self.slot.values, prod(of_queries.padded)
        read = min(self.top - self.causal_self, of_keys.count) + self.causal_self
        of_conv = 0.0 if self.conv is None else self.conv.flops(of_keys.raster)
        choosing = of_queries.count * of_keys.count * dim
        return 2.0 * self.slot.heads * (choosing + rows * read * prod(of_keys.window) * (dim + size)) + of_conv

    def _regions(self, n: int, m: int) -> list[RasterWindows]:
        """Return the regions of n queries and of m keys."""
        rasters = self.slot.raster or (n,), self.slot.source_raster or (m,)
        return [RasterWindows(raster, box, (0,) * len(box)) for raster, box in zip(rasters, self.boxes, strict=True)]
