"""Local attention: softmax over the keys near a query's own position, or near a position that it predicts.

Self patterns have a sliding window (as in arXiv 2004.05150). Query i sees the keys |i - j| <= window in NS, which are
2 window + 1 keys, and 0 <= i - j <= window in CS, which are window + 1 keys; at the ends there are fewer. With
`dilation` (same paper) it sees as many keys, at distances that are multiples of `dilation`.

Cross patterns are local-p (Luong et al., arXiv 1508.04025, equations 9 and 10). A query has no position in the source,
so it predicts one, p = length sigmoid(v^T tanh(W q)), with a W and a v for each head. It sees the keys
|j - p| <= window. Each softmax weight is multiplied by exp(-(j - p)^2 / (2 sigma^2)), sigma = window / 2, and not
normalised again. `length` is the position after the last real key, so that padding changes nothing. A row uses its own
query alone, so that CC equals NC. Windows are not dilated here.
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
    """Every query attends to the keys in one window."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 1508.04025"
    parity = "local-attention, natten"
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
            self.position_matrix = nn.Parameter(torch.empty(slot.heads, slot.dim, slot.dim).uniform_(-bound, bound))
            self.position_vector = nn.Parameter(torch.empty(slot.heads, slot.dim, 1).uniform_(-bound, bound))

    def use(self, backend: str) -> Mechanism:
        """Refuse fused kernels in cross patterns."""
        if backend == "sdpa" and self.slot.pattern.cross:
            raise Unsupported("in cross patterns weights are scaled after the softmax, which PyTorch's kernels hide")
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Attend in blocks of neighbouring queries (self), or of queries with neighbouring positions (cross)."""
        if not self.slot.pattern.cross:
            return self._in_window(explicit_attention, q, k, v, key_mask)
        k, v, scaled = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads), q * self.slot.dim**-0.5
        position = self._predict(q, k.shape[2], key_mask)
        attend = self._in_blocks if self._blocks_pay(q.shape[2], k.shape[2]) else self._with_all_keys
        return attend(scaled, k, v, position, key_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._in_window(fused_attention, q, k, v, key_mask)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute every weight, head by head, and zero those outside the window."""
        group, outs = self.slot.heads // k.shape[1], []
        i, j = (torch.arange(t.shape[2], device=q.device) for t in (q, k))
        for head in range(self.slot.heads):
            q_h, k_h, v_h = q[:, head], k[:, head // group], v[:, head // group]
            if self.slot.pattern.cross:
                # in float32 at least: a 16-bit position would be off by whole tokens
                x, w, u = (
                    t.to(at_least_float32(t)) for t in (q_h, self.position_matrix[head], self.position_vector[head])
                )
                share = torch.sigmoid(torch.tanh(x @ w) @ u)
                distance = j - len(j) * share
                seen, factor = distance.abs() <= self.window, torch.exp(-(distance**2) / (2 * (self.window / 2) ** 2))
            else:
                distance, factor = j - i[:, None], 1.0
                seen = (distance.abs() <= self.window * self.dilation) & (distance % self.dilation == 0)
                seen = seen & (distance <= 0) if self.slot.pattern.causal else seen
            weights = (q_h @ k_h.mT / self.slot.dim**0.5).exp() * seen
            outs.append((weights / weights.sum(-1, keepdim=True) * factor).to(v.dtype) @ v_h)
        return torch.stack(outs, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count scores and sums over the pairs that are computed, and in cross patterns the predictions."""
        dim, size = self.slot.dim, self.slot.values
        if not self.slot.pattern.cross:
            after = 0 if self.slot.pattern.causal else self.window
            pairs = banded_pairs(n, self.window, after, self.block, self.dilation)
            return 2.0 * self.slot.heads * pairs * (dim + size)
        pairs = self._block_pairs(n, m) if self._blocks_pay(n, m) else n * m
        return 2.0 * self.slot.heads * (pairs * (dim + size) + n * dim * (dim + 1))

    def flops_needed(self, n: int, m: int) -> float:
        """Count the pairs in the window alone, in cross patterns the most that a window can hold."""
        dim, size = self.slot.dim, self.slot.values
        if not self.slot.pattern.cross:
            after = 0 if self.slot.pattern.causal else self.window
            return 2.0 * self.slot.heads * window_pairs(n, self.window, after, self.dilation) * (dim + size)
        return 2.0 * self.slot.heads * n * (min(2 * self.window + 1, m) * (dim + size) + dim * (dim + 1))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep the source (CC), or masked zeros as the last keys (CS), and which keys are real."""
        if self.slot.pattern.cross:
            real = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
            return k, v, real if key_mask is None else key_mask
        kept = self.reach * self.dilation
        padding = (0, 0, kept, 0)
        return F.pad(k, padding), F.pad(v, padding), k.new_zeros(k.shape[0], kept, dtype=torch.bool)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the source (CC); or to the last keys and the new ones, each row's real ones first (CS)."""
        keys, values, real = state
        if k is None or v is None:
            return self.attend(q, keys, values, real), state
        order = inverse = None
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        if key_mask is not None:
            order, inverse = real_first(key_mask)
            q, k, v = (gather_tokens(t, order) for t in (q, k, v))
            new = key_mask.gather(1, order)
        keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
        all_k, all_v = repeat_heads(keys, self.slot.heads), repeat_heads(values, self.slot.heads)
        kept = self.reach * self.dilation
        out = dilated_softmax(q, all_k, all_v, self.reach, 0, self.dilation, self.block, real, kept)
        last = torch.arange(kept, device=q.device) + new.sum(1, keepdim=True)
        state = gather_tokens(keys, last), gather_tokens(values, last), real.gather(1, last)
        return out if inverse is None else gather_tokens(out, inverse), state

    def _in_window(self, attention: BlockAttention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        after = 0 if self.slot.pattern.causal else self.window
        return dilated_softmax(q, k, v, self.window, after, self.dilation, self.block, key_mask, attention=attention)

    def _sizes(self, n: int, m: int) -> tuple[int, int, int]:
        """Return the number of segments of the source, the number of blocks of queries, and the size of a block."""
        segments, size = -(-m // self.block), min(self.block, n)
        return segments, max_blocks(n, segments, size), size

    def _block_pairs(self, n: int, m: int) -> int:
        _, blocks, size = self._sizes(n, m)
        return blocks * size * (self.block + 2 * self.window)

    def _blocks_pay(self, n: int, m: int) -> bool:
        """Whether attention in blocks computes fewer pairs than there are."""
        return self._block_pairs(n, m) < n * m

    def _predict(self, q: Tensor, m: int, key_mask: Tensor | None) -> Tensor:
        """Predict the position p of each query in the source, (batch, heads, n, 1), in float32 at least."""
        wide = at_least_float32(q)  # a 16-bit position, or share of the source, would be off by whole tokens
        with full_precision(q.device.type):
            share = torch.sigmoid(
                torch.tanh(q.to(wide) @ self.position_matrix.to(wide)) @ self.position_vector.to(wide)
            )
        if key_mask is None:
            return share * m
        length = (key_mask * torch.arange(1, m + 1, device=q.device)).amax(1)
        return share * length[:, None, None, None]

    def _with_all_keys(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_mask: Tensor | None) -> Tensor:
        distance = torch.arange(k.shape[2], device=q.device) - position
        seen = distance.abs() <= self.window
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        weights = masked_softmax(q @ k.transpose(-1, -2), seen)
        return (weights * self._factor(distance).to(v.dtype)) @ v

    def _in_blocks(self, q: Tensor, k: Tensor, v: Tensor, position: Tensor, key_mask: Tensor | None) -> Tensor:
        """Attend in blocks of queries whose positions are in one segment, to its keys and `window` on each side."""
        batch, heads, m, _ = k.shape
        segments, blocks, size = self._sizes(q.shape[2], m)
        segment = (position.detach().squeeze(3) / self.block).long().clamp(0, segments - 1)
        block_position, block_segment = assign_blocks(segment, segments, size)
        index = block_segment.unsqueeze(3) * self.block - self.window
        index = index + torch.arange(self.block + 2 * self.window, device=q.device)
        distance = index.unsqueeze(3) - scatter_to_blocks(position, block_position, blocks, size)
        seen = (distance.abs() <= self.window) & ((index >= 0) & (index < m)).unsqueeze(3)
        index = index.clamp(0, m - 1)
        if key_mask is not None:
            real = key_mask[:, None, None, :].expand(-1, heads, blocks, -1).gather(3, index)
            seen = seen & real.unsqueeze(3)
        row = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1) * m + index
        near_k, near_v = (F.embedding(row, t.reshape(batch * heads * m, -1)) for t in (k, v))
        weights = masked_softmax(scatter_to_blocks(q, block_position, blocks, size) @ near_k.transpose(-1, -2), seen)
        return gather_from_blocks((weights * self._factor(distance).to(v.dtype)) @ near_v, block_position)

    def _factor(self, distance: Tensor) -> Tensor:
        return (-2.0 * (distance / self.window) ** 2).exp()
