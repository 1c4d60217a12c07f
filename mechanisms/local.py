"""Local attention: softmax over the keys near a query's own place, or near a place that it predicts.

Self patterns, a sliding window (as in arXiv 2004.05150): query i sees the keys |i - j| <= window in NS (2 window + 1
keys) and 0 <= i - j <= window in CS (window + 1 keys): itself always included, fewer at the ends. Of a dilated window
(same paper) it sees as many keys, every `dilation`-th one: the keys whose distance is a multiple of it.

Cross patterns, local-p (Luong et al., arXiv 1508.04025, equations 9 and 10): i has no place in the source, so the
query predicts one, p = length sigmoid(v^T tanh(W q)), sees the keys |j - p| <= window, and each softmax weight is
multiplied by exp(-(j - p)^2 / (2 sigma^2)), sigma = window / 2, and not normalised again. `length` is the place after
the last real key, so a masked tail moves nothing. A row needs its own query alone, so CC equals NC. W and v are one a
head. There, windows are not dilated.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Unsupported
from cab.ops.buckets import assign_blocks, gather_from_blocks, max_blocks, scatter_to_blocks
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.sliding_window import banded_pairs, dilated_softmax, window_pairs
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax, repeat_heads


class Local(Mechanism):
    """Every query weighs the keys in one window."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 1508.04025"
    cost = "O((n + m) w d)"
    grouped = True
    checks = (
        {"window": 3, "block": 4},
        {"window": 1, "block": 1},
        {"window": 9, "block": 16},
        {"window": 2, "block": 3, "dilation": 3},
    )
    limits = (
        {"params": {"window": 64}, "equals": "softmax", "patterns": ["NS", "CS"]},
        {"params": {"window": 1000000000}, "equals": "softmax"},
    )

    def __init__(self, slot: Any, *, window: int = 128, dilation: int = 1, block: int = 128) -> None:
        super().__init__(slot)
        if window < 1:
            raise ValueError(f"window={window}: at least 1 key on a side is needed")
        if block < 1:
            raise ValueError(f"block={block}: at least 1 query is needed")
        if dilation < 1:
            raise ValueError(f"dilation={dilation}: 1 for neighbours, 2 for every second key, ...")
        self.window, self.dilation, self.block = window, dilation, block
        self.reach = min(window, -(-(slot.max_len - 1) // dilation))  # keys before a query, at most
        if slot.pattern.cross:
            bound = slot.dim**-0.5
            self.turn = nn.Parameter(torch.empty(slot.heads, slot.dim, slot.dim).uniform_(-bound, bound))
            self.point = nn.Parameter(torch.empty(slot.heads, slot.dim, 1).uniform_(-bound, bound))

    def use(self, backend: str) -> Mechanism:
        """Refuse fused kernels in cross patterns."""
        if backend == "sdpa" and self.slot.pattern.cross:
            raise Unsupported("in cross patterns weights are scaled after the softmax, which PyTorch's kernels hide")
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Work in blocks of queries that are neighbours (self) or look at neighbouring places (cross)."""
        if not self.slot.pattern.cross:
            return self._in_window(explicit_attention, q, k, v, key_mask)
        k, v, scaled = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads), q * self.slot.dim**-0.5
        place = self._place(q, k.shape[2], key_mask)
        near = self._in_blocks if self._pays(q.shape[2], k.shape[2]) else self._written_out
        return near(scaled, k, v, place, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._in_window(fused_attention, q, k, v, key_mask)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write every weight, head by head, and cut what lies outside the window."""
        n, m, dim = q.shape[2], k.shape[2], self.slot.dim
        j = torch.arange(m, device=q.device)
        real = torch.ones(q.shape[0], m, device=q.device, dtype=torch.bool) if key_mask is None else key_mask
        out = []
        for head in range(self.slot.heads):
            of = head * k.shape[1] // self.slot.heads
            weights = (torch.einsum("bid,bjd->bij", q[:, head], k[:, of]) / dim**0.5).exp()
            if self.slot.pattern.cross:
                wide = at_least_float32(q)  # a 16-bit place would be off by whole tokens
                length = torch.stack([(row * (j + 1)).max() for row in real]).to(wide)
                turned = torch.tanh(torch.einsum("bid,de->bie", q[:, head].to(wide), self.turn[head].to(wide)))
                place = length[:, None] * torch.sigmoid(turned @ self.point[head, :, 0].to(wide))
                away = j - place[:, :, None]
                far, factor = away.abs() > self.window, (-(away**2) / (2 * (self.window / 2) ** 2)).exp()
            else:
                ahead = j[None, :] - torch.arange(n, device=q.device)[:, None]
                last = 0 if self.slot.pattern.causal else self.window
                far = (ahead < -self.window * self.dilation) | (ahead > last * self.dilation)
                far, factor = (far | (ahead % self.dilation != 0))[None], torch.ones_like(weights)
            weights = weights.masked_fill(far | ~real[:, None, :], 0.0)
            total = weights.sum(-1, keepdim=True)
            out.append((weights / total.where(total > 0, 1.0) * factor).to(v.dtype) @ v[:, of])
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores and sums over the pairs that are computed, and in cross patterns the predicted places."""
        dim, size = self.slot.dim, self.slot.values
        if not self.slot.pattern.cross:
            after = 0 if self.slot.pattern.causal else self.window
            pairs = banded_pairs(n, self.window, after, self.block, self.dilation)
            return 2.0 * self.slot.heads * pairs * (dim + size)
        pairs = self._block_pairs(n, m) if self._pays(n, m) else n * m
        return 2.0 * self.slot.heads * (pairs * (dim + size) + n * dim * (dim + 1))

    def flops_needed(self, n: int, m: int) -> float:
        """The pairs in the window alone (cross: the most that a window can hold)."""
        dim, size = self.slot.dim, self.slot.values
        if not self.slot.pattern.cross:
            after = 0 if self.slot.pattern.causal else self.window
            return 2.0 * self.slot.heads * window_pairs(n, self.window, after, self.dilation) * (dim + size)
        return 2.0 * self.slot.heads * n * (min(2 * self.window + 1, m) * (dim + size) + dim * (dim + 1))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source (CC), or room for the last keys (CS), and which of them are real."""
        if self.slot.pattern.cross:
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, real if key_mask is None else key_mask
        kept = self.reach * self.dilation
        unfilled = (0, 0, kept, 0)
        return F.pad(k, unfilled), F.pad(v, unfilled), k.new_zeros(k.shape[0], kept, dtype=torch.bool)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the source (CC); or the last keys and the new ones, real ones first so that distances hold (CS)."""
        keys, values, real = state
        if k is None or v is None:
            return self.attend(q, keys, values, real), state
        order = back = None
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        if key_mask is not None:
            order, back = real_first(key_mask)
            q, k, v, new = (
                gather_tokens(q, order),
                gather_tokens(k, order),
                gather_tokens(v, order),
                key_mask.gather(1, order),
            )
        keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
        wide_k, wide_v = repeat_heads(keys, self.slot.heads), repeat_heads(values, self.slot.heads)
        kept = self.reach * self.dilation
        out = dilated_softmax(q, wide_k, wide_v, self.reach, 0, self.dilation, self.block, real, kept)
        last = torch.arange(kept, device=q.device) + new.sum(1, keepdim=True)
        state = gather_tokens(keys, last), gather_tokens(values, last), real.gather(1, last)
        return out if back is None else gather_tokens(out, back), state

    def _in_window(self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        after = 0 if self.slot.pattern.causal else self.window
        return dilated_softmax(q, k, v, self.window, after, self.dilation, self.block, key_mask, attention=attention)

    def _sizes(self, n: int, m: int) -> tuple[int, int, int]:
        """Return the stretches of the source, the blocks of queries that look into one, and their queries."""
        stretches, size = -(-m // self.block), min(self.block, n)
        return stretches, max_blocks(n, stretches, size), size

    def _block_pairs(self, n: int, m: int) -> int:
        _, blocks, size = self._sizes(n, m)
        return blocks * size * (self.block + 2 * self.window)

    def _pays(self, n: int, m: int) -> bool:
        """Whether blocks compute fewer pairs than all queries with all keys are."""
        return self._block_pairs(n, m) < n * m

    def _place(self, q: Tensor, m: int, key_mask: Tensor | None) -> Tensor:
        """Predict where in the source each query looks: (batch, heads, n, 1), in float32 at least."""
        wide = at_least_float32(q)  # a 16-bit place, or share of the source, would be off by whole tokens
        with full_precision(q.device.type):
            share = torch.sigmoid(torch.tanh(q.to(wide) @ self.turn.to(wide)) @ self.point.to(wide))
        if key_mask is None:
            return share * m
        length = (key_mask * torch.arange(1, m + 1, device=q.device)).amax(1)
        return share * length[:, None, None, None]

    def _written_out(self, q: Tensor, k: Tensor, v: Tensor, place: Tensor, key_mask: Tensor | None) -> Tensor:
        away = torch.arange(k.shape[2], device=q.device) - place
        seen = away.abs() <= self.window
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        weights = masked_softmax(q @ k.transpose(-1, -2), seen)
        return (weights * self._nearness(away).to(v.dtype)) @ v

    def _in_blocks(self, q: Tensor, k: Tensor, v: Tensor, place: Tensor, key_mask: Tensor | None) -> Tensor:
        """Let queries that look into one stretch of the source share its keys, and those `window` beside it."""
        batch, heads, m, _ = k.shape
        stretches, blocks, size = self._sizes(q.shape[2], m)
        stretch = (place.detach().squeeze(3) / self.block).long().clamp(0, stretches - 1)
        where, of_block = assign_blocks(stretch, stretches, size)
        index = of_block.unsqueeze(3) * self.block - self.window
        index = index + torch.arange(self.block + 2 * self.window, device=q.device)
        away = index.unsqueeze(3) - scatter_to_blocks(place, where, blocks, size)
        seen = (away.abs() <= self.window) & ((index >= 0) & (index < m)).unsqueeze(3)
        index = index.clamp(0, m - 1)
        if key_mask is not None:
            real = key_mask[:, None, None, :].expand(-1, heads, blocks, -1).gather(3, index)
            seen = seen & real.unsqueeze(3)
        row = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1) * m + index
        near_k, near_v = (F.embedding(row, t.reshape(batch * heads * m, -1)) for t in (k, v))
        weights = masked_softmax(scatter_to_blocks(q, where, blocks, size) @ near_k.transpose(-1, -2), seen)
        return gather_from_blocks((weights * self._nearness(away).to(v.dtype)) @ near_v, where)

    def _nearness(self, away: Tensor) -> Tensor:
        return (-2.0 * (away / self.window) ** 2).exp()
