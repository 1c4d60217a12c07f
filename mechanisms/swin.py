"""Swin attention (Liu et al., arXiv 2103.14030, equation 4): softmax(q k^T / sqrt(dim) + B) v within windows.

The raster is cut into windows of `window` places along each axis. Odd layers shift them by half a window, so that over
two layers tokens of neighbouring windows meet. B is a learned number for each offset between two places of a window.
SwinV2 (arXiv 2111.09883, equations 2 and 4) scales the cosine of q and k by a learned factor instead (`cosine`), and
computes B from the logarithm of the offset by a small network (`bias=continuous`).

`squeeze` = r, provisional and off by default, gates the channels y of all heads by sigmoid(W2 relu(W1 mean_i y_i)),
with W1 to channels / r units (squeeze and excitation, arXiv 1709.01507, equation 3). Where the paper that adds it to
Swin puts the gate is not known here; this one is on the output of the windows. Causal patterns have none, as the mean
holds later rows.

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

from cab import Mechanism, Pattern, Unsupported
from cab.ops.channels import channels_of, heads_of
from cab.ops.means import masked_mean
from cab.ops.precision import widened
from cab.ops.raster_places import centres, places
from cab.ops.raster_windows import AlignedWindows
from cab.ops.relative_bias import ContinuousBias, TableBias
from cab.ops.softmax import FLOOR, masked_softmax, repeat_heads


class Swin(Mechanism):
    """Every query weighs the keys of its window, and the windows shift from layer to layer."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1,)},)
    paper = "arXiv 2103.14030"
    parity = (
        "timm (SwinTransformerBlock, SwinTransformerV2Block), monai (SwinTransformerBlock), transformers (SwinLayer)"
    )
    cost = "O(n w d)"
    titles = (
        "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images",
        "S2LIC: Learned Image Compression with the SwinV2 Block, Adaptive Channel-wise and Global-inter Attention "
        "Context",
        "Applying Spatiotemporal Attention to Identify Distracted and Drowsy Driving with Vision Transformers",
        "Facial Expression Recognition using Squeeze and Excitation-powered Swin Transformers",
    )
    rasters = (1, 2, 3)
    grouped = True
    accepts = {"window": ">= 1", "bias": ("table", "continuous", "none"), "squeeze": ">= 0"}
    checks = (
        {"window": 3},
        {"window": 4, "cosine": True, "bias": "continuous"},
        {"window": 2, "bias": "none"},
        {"window": 3, "squeeze": 1, "patterns": ["NS", "NC"]},
    )
    limits = (
        {"params": {"window": 1000}, "weights": {"bias.table": 0.0}, "equals": "softmax"},
        {"params": {"window": 1000, "bias": "none"}, "equals": "softmax"},
    )

    exempt = {
        "heads@NS": "with `squeeze` a channel's gate reads the channels of all heads",
        "heads@NC": "with `squeeze` a channel's gate reads the channels of all heads",
    }

    def __init__(
        self, slot: Any, *, window: int = 7, cosine: bool = False, bias: str = "table", squeeze: int = 0
    ) -> None:
        super().__init__(slot)
        sides = slot.source_sides
        self.window = tuple(min(window, side) for side in sides)
        shift = (slot.layer % 2 * (size < side) * (size // 2) for size, side in zip(self.window, sides, strict=True))
        self.windows = AlignedWindows(slot, self.window, tuple(shift))
        biases = {"table": TableBias, "continuous": ContinuousBias}
        self.bias = biases[bias](slot.heads, self.window, self.windows.rates) if bias in biases else None
        self.log_scale = nn.Parameter(torch.full((slot.heads, 1, 1, 1), log(10))) if cosine else None
        self.gate = None
        if squeeze:
            if slot.pattern.causal:
                raise Unsupported(f"squeeze={squeeze}: the gate holds the mean of all rows, later ones too; use 0")
            channels = slot.heads * slot.values
            units = max(1, channels // squeeze)
            self.gate = nn.Sequential(nn.Linear(channels, units), nn.ReLU(), nn.Linear(units, channels), nn.Sigmoid())

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Attend in all windows at once; in cross patterns the queries are laid out among the keys."""
        n, m = q.shape[2], k.shape[2]
        of_queries, of_keys = self.windows.of_queries(m), self.windows.of_keys(m)
        seen = None  # else (batch, 1, windows, queries, keys)
        if any(of_keys.shift):
            seen = of_queries.regions(q.device).unsqueeze(2) == of_keys.regions(q.device).unsqueeze(1)
        hidden = key_mask is not None or m < prod(of_keys.padded)
        if hidden:
            real = of_keys.cut_mask(key_mask, k).unsqueeze(3)
            seen = real if seen is None else real & seen
        if self.slot.pattern is Pattern.CS:
            size = prod(self.window)
            past = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
            seen = past if seen is None else past & seen
        k, v = (of_keys.cut(repeat_heads(t, self.slot.heads)) for t in (k, v))
        q = self.windows.cut_queries(q, m)
        if self.log_scale is None:
            scores = widened((q * self.slot.dim**-0.5) @ k.mT)
        else:
            scores = widened(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT) * self._scale()
        bias = None if self.bias is None else self.bias().unsqueeze(1)
        if seen is not None and not hidden:  # every query sees a key: such a mask is cheaper as a bias
            mask = torch.zeros_like(seen, dtype=scores.dtype).masked_fill(~seen, FLOOR)
            bias, seen = mask if bias is None else bias + mask, None
        if bias is not None:
            scores = scores + bias
        out = self.windows.join_queries(masked_softmax(scores, seen).to(v.dtype) @ v, n, m)
        if self.gate is None:
            return out
        return out * heads_of(self.gate(channels_of(masked_mean(out, query_mask))), self.slot.heads).to(out.dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Write every weight, and keep those of one window."""
        (n, m), windows = (q.shape[2], k.shape[2]), self.windows
        of_query, of_key = windows.numbers(n, m, q.device)
        seen = of_query[:, None] == of_key
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        if self.log_scale is None:
            scores = q @ k.mT / self.slot.dim**0.5
        else:
            q, k = (t / t.norm(dim=3, keepdim=True).clamp(min=1e-12) for t in (q, k))
            scores = q @ k.mT * self._scale()[:, 0]
        if self.bias is not None:
            query, key = centres(windows.raster, windows.source, q.device)[:n], places(windows.source, q.device)[:m]
            offset = query[:, None] - key + torch.tensor(self.window, device=q.device) - 1
            table = self.bias.of_offsets().unflatten(1, [2 * size - 1 for size in self.window])
            scores = scores + table[:, *offset.masked_fill(~seen.unsqueeze(2), 0).unbind(2)]
        out = masked_softmax(scores, seen if key_mask is None else seen & key_mask[:, None, None]) @ v
        if self.gate is None:
            return out
        rows = out if query_mask is None else out[:, :, query_mask[0]]
        mean = rows.sum(2) / max(rows.shape[2], 1)
        return out * self.gate(mean.flatten(1)).unflatten(1, (self.slot.heads, 1, -1))

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of each window, with what fills it up, and the network of the bias."""
        return self._flops(self.windows.of_keys(m).count * prod(self.window) ** 2 * prod(self.windows.rates))

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        pairs = self.windows.pairs(n, m)
        return self._flops((pairs + n) // 2 if self.slot.pattern is Pattern.CS else pairs)

    def _flops(self, pairs: int) -> float:
        beside = 0.0 if self.bias is None else self.bias.flops
        beside += 0.0 if self.gate is None else 4.0 * self.gate[0].weight.numel()
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values) + beside

    def _scale(self) -> Tensor:
        """Return the factor of each head's cosines, at most 100."""
        return self.log_scale.clamp(max=log(100)).exp()
