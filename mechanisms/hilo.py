"""HiLo attention, LITv2's (Pan et al., arXiv 2205.13213): some heads see their window, the others the means of windows.

The raster is cut into windows of `window` places along each axis. Of H heads, floor(share H) are low-frequency (Lo-Fi):
with k_w and v_w the means of a window's keys and values, they compute softmax_w(q_i k_w / sqrt(dim)) v_w over all
windows. The others are high-frequency (Hi-Fi): softmax attention within the window of the query.

- NS: native on images; sequences and volumes are ours.
- NC: a Lo-Fi head is native, as it pools keys alone. Hi-Fi (ours): a query stands at a place of the source, in
  proportion to the sides of both rasters, and sees the window of that place. CC is the same: no query sees another one.
- CS (ours): a Lo-Fi head sees the windows whose last token comes before the query; a Hi-Fi head sees, of its window,
  what comes before the query.

The paper pools tokens and projects them. Keys and values are pooled here: the same, as pooling and an affine map may
change places. Masked tokens are in no mean.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.raster_windows import AlignedWindows, window_means
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax, repeat_heads


class Hilo(Mechanism):
    """Some heads attend within windows, the others to one mean of each window."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1, 3)},)
    paper = "arXiv 2205.13213"
    cost = "O(n (w + m / w) d)"  # w tokens of a window
    titles = ("Fast Vision Transformers with HiLo Attention",)
    rasters = (1, 2, 3)
    grouped = True
    accepts = {"window": ">= 1", "share": ">= 0, <= 1"}
    checks = ({"window": 3}, {"window": 2, "share": 1.0})
    limits = (
        {"params": {"window": 1, "share": 1.0}, "equals": "softmax", "patterns": ["NS", "NC", "CC"]},
        {"params": {"window": 1000, "share": 0.0}, "equals": "softmax"},
        {"params": {"window": 4, "share": 0.0}, "equals": "swin", "equals_params": {"window": 4, "bias": "none"}},
    )

    def __init__(self, slot: Any, *, window: int = 2, share: float = 0.9) -> None:
        super().__init__(slot)
        self.low = int(slot.heads * share)  # heads
        source = slot.source_sides
        self.windows = AlignedWindows(slot, tuple(min(window, side) for side in source))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in all windows at once, and to all means."""
        return self._heads(explicit_attention, q, k, v, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute both with PyTorch's fused kernels."""
        return self._heads(fused_attention, q, k, v, key_mask)

    def _heads(self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        n, m, causal = q.shape[2], k.shape[2], self.slot.pattern is Pattern.CS
        of_keys, low, outs = self.windows.of_keys(m), self.low, []
        real = of_keys.cut_mask(key_mask, k)  # (batch, 1, windows, tokens)
        k, v = (of_keys.cut(repeat_heads(t, self.slot.heads)) for t in (k, v))
        if low:
            mean_k, mean_v = (window_means(t[:, :low], real).to(t.dtype).unsqueeze(2) for t in (k, v))
            seen = real.any(3)[:, :, None, None]  # (batch, 1, 1, 1, windows)
            if causal:
                seen = seen & (self._last(m, q.device) < torch.arange(n, device=q.device)[:, None])
            outs.append(attention(q[:, :low].unsqueeze(2), mean_k, mean_v, seen).squeeze(2))
        if low < self.slot.heads:
            of_window = self.windows.cut_queries(q[:, low:], m)
            seen = real.unsqueeze(3).expand(-1, -1, -1, of_window.shape[3], -1)
            out = attention(of_window, k[:, low:], v[:, low:], seen.tril() if causal else seen)
            outs.append(self.windows.join_queries(out, n, m))
        return torch.cat(outs, 1)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight: of the means, and within the window of each query."""
        of_query, of_key = self.windows.numbers(q.shape[2], k.shape[2], q.device)
        real = torch.ones_like(of_key, dtype=torch.bool) if key_mask is None else key_mask[0]
        i, j = (torch.arange(t.shape[2], device=q.device) for t in (q, k))
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        member = F.one_hot(of_key).T.bool()  # (windows, keys)
        held = member & real
        share = held / held.sum(1, keepdim=True).clamp(min=1).to(k.dtype)
        of_all, low = held.any(1).expand(len(i), -1), self.low
        in_window = (of_query[:, None] == of_key) & real
        if self.slot.pattern is Pattern.CS:
            of_all = of_all & ((member * j).amax(1) < i[:, None])
            in_window = in_window.tril()
        outs = []
        for query, key, value, seen in (
            (q[:, :low], share @ k[:, :low], share @ v[:, :low], of_all),
            (q[:, low:], k[:, low:], v[:, low:], in_window),
        ):
            scores = torch.einsum("bhid,bhjd->bhij", query, key) / self.slot.dim**0.5
            outs.append(masked_softmax(scores, seen) @ value)
        return torch.cat(outs, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over the pairs of query and window, and over the pairs of each window with what fills it up."""
        windows = self.windows.of_keys(m)
        in_windows = windows.count * prod(windows.window) ** 2 * prod(self.windows.rates)
        pairs = self.low * n * windows.count + (self.slot.heads - self.low) * in_windows
        return 2.0 * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs that are seen alone."""
        of_all, in_windows = n * self.windows.of_keys(m).count, self.windows.pairs(n, m)
        if self.slot.pattern is Pattern.CS:
            of_all, in_windows = int((n - 1 - self._last(m)).clamp(min=0).sum()), (in_windows + n) // 2
        pairs = self.low * of_all + (self.slot.heads - self.low) * in_windows
        return 2.0 * pairs * (self.slot.dim + self.slot.values)

    def _last(self, m: int, device: torch.device | None = None) -> Tensor:
        """Return the number of the last token of each window: (windows,)."""
        number = torch.arange(m, device=device)[None, None, :, None]
        return self.windows.of_keys(m).cut(number).amax(3).flatten()  # what fills a window up is 0
