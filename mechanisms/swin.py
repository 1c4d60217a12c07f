"""Swin attention (Liu et al., arXiv 2103.14030, equation 4): softmax(q k^T / sqrt(dim) + B) v within windows.

The raster is cut into windows of `window` places along each axis. Odd layers shift them by half a window, so that over
two layers tokens of neighbouring windows meet. B is a learned number for each offset between two places of a window.
SwinV2 (arXiv 2111.09883, equations 2 and 4) scales the cosine of q and k by a learned factor instead (`cosine`), and
computes B from the logarithm of the offset by a small network (`bias=continuous`).

- NS: native on images, videos and volumes. A sequence is a raster with one axis. A window that is as long as the
  raster on an axis is not shifted there.
- CS (ours): of its window, a query sees what comes before it in raster order.
- NC, CC (ours): each query stands at a place of the source, in proportion to the sides of both rasters, and sees the
  window of that place. It needs no other query.

The shift is cyclic: the last window holds tokens from both ends of an axis, and those do not see each other. What fills
up the last window is masked, where the authors' code lets it take weight.
"""

from math import log, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.precision import widened
from cab.ops.raster_places import aligned_positions, centres, places
from cab.ops.raster_windows import RasterWindows
from cab.ops.relative_bias import ContinuousBias, TableBias
from cab.ops.softmax import masked_softmax, repeat_heads


class Swin(Mechanism):
    """Every query weighs the keys of its window, and the windows shift from layer to layer."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2103.14030"
    cost = "O(n w d)"
    rasters = (1, 2, 3)
    grouped = True
    accepts = {"window": ">= 1", "bias": ("table", "continuous", "none")}
    checks = ({"window": 3}, {"window": 4, "cosine": True, "bias": "continuous"}, {"window": 2, "bias": "none"})
    limits = (
        {"params": {"window": 1000}, "weights": {"bias.table": 0.0}, "equals": "softmax"},
        {"params": {"window": 1000, "bias": "none"}, "equals": "softmax"},
    )

    position: Tensor

    def __init__(self, slot: Any, *, window: int = 7, cosine: bool = False, bias: str = "table") -> None:
        super().__init__(slot)
        self.source = slot.source_sides
        self.window = tuple(min(window, side) for side in self.source)
        self.shift = tuple(
            size // 2 if slot.layer % 2 and size < side else 0
            for size, side in zip(self.window, self.source, strict=True)
        )
        position, self.rates = aligned_positions(slot.sides, self.source)
        self.register_buffer("position", position if slot.pattern.cross else None, persistent=False)
        biases = {"table": TableBias, "continuous": ContinuousBias}
        self.bias = biases[bias](slot.heads, self.window, self.rates) if bias in biases else None
        self.log_scale = nn.Parameter(torch.full((slot.heads, 1, 1, 1), log(10))) if cosine else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Attend in all windows at once; in cross patterns the queries are laid out among the keys."""
        n, (of_queries, of_keys) = q.shape[2], self._windows(k.shape[2])
        if self.slot.pattern.cross:
            q = q.new_zeros(*q.shape[:2], prod(of_queries.raster), q.shape[3]).index_copy(2, self.position[:n], q)
        together = of_queries.regions(q.device).unsqueeze(2) == of_keys.regions(q.device).unsqueeze(1)
        seen = of_keys.cut_mask(key_mask, k).unsqueeze(3) & together  # (batch, 1, windows, queries, keys)
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        q, k, v = of_queries.cut(q), *(of_keys.cut(repeat_heads(t, self.slot.heads)) for t in (k, v))
        if self.log_scale is None:
            scores = widened((q * self.slot.dim**-0.5) @ k.mT)
        else:
            scores = widened(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT) * self._scale()
        if self.bias is not None:
            scores = scores + self.bias().unsqueeze(1)
        out = of_queries.join(masked_softmax(scores, seen).to(v.dtype) @ v)
        return out.index_select(2, self.position[:n]) if self.slot.pattern.cross else out

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Write every weight, and keep those of one window."""
        query, key = self._places(q.shape[2], k.shape[2], q.device)
        of_query, of_key = self._numbers(query, key)
        seen = of_query[:, None] == of_key
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        if self.log_scale is None:
            scores = q @ k.mT / self.slot.dim**0.5
        else:
            q, k = (t / t.norm(dim=3, keepdim=True).clamp(min=1e-12) for t in (q, k))
            scores = q @ k.mT * self._scale()[:, 0]
        if self.bias is not None:
            offset = query[:, None] - key + torch.tensor(self.window, device=q.device) - 1
            table = self.bias.of_offsets().unflatten(1, [2 * size - 1 for size in self.window])
            scores = scores + table[:, *offset.masked_fill(~seen.unsqueeze(2), 0).unbind(2)]
        return masked_softmax(scores, seen if key_mask is None else seen & key_mask[:, None, None]) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of each window, with what fills it up, and the network of the bias."""
        return self._flops(self._windows(m)[1].count * prod(self.window) ** 2 * prod(self.rates))

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        queries, keys = (number.bincount(minlength=n + m) for number in self._numbers(*self._places(n, m)))
        pairs = int((queries * keys).sum())
        return self._flops((pairs + n) // 2 if self.slot.pattern is Pattern.CS else pairs)

    def _flops(self, pairs: int) -> float:
        of_bias = 0.0 if self.bias is None else self.bias.flops
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values) + of_bias

    def _windows(self, m: int) -> tuple[RasterWindows, RasterWindows]:
        """Return the windows of queries and of m keys."""
        raster = self.source if self.slot.pattern.cross or len(self.source) > 1 else (m,)
        of_keys = RasterWindows(raster, self.window, self.shift)
        return of_keys.times(self.rates), of_keys

    def _places(self, n: int, m: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Return where n queries and m keys stand among the keys: (n, axes) and (m, axes)."""
        return centres(self.slot.sides, self.source, device)[:n], places(self.source, device)[:m]

    def _numbers(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return a number for the window of each place (n, axes) and (m, axes): (n,) and (m,)."""
        window, shift = (torch.tensor(sizes, device=key.device) for sizes in (self.window, self.shift))
        along_axes = (torch.cat([query, key]) - shift).div(window, rounding_mode="floor")
        of_query, of_key = along_axes.unique(dim=0, return_inverse=True)[1].split([len(query), len(key)])
        return of_query, of_key

    def _scale(self) -> Tensor:
        """Return the factor of each head's cosines, at most 100."""
        return self.log_scale.clamp(max=log(100)).exp()
