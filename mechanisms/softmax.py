"""Softmax attention (Vaswani et al., arXiv 1706.03762, equation 1): softmax(q k^T / sqrt(dim)) v.

Row i uses q_i and the keys and values alone, so causal cross needs nothing more than noncausal cross.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.softmax import masked_softmax, repeat_heads, visible


class Softmax(Mechanism):
    """Every query weighs every key that it may see."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 1706.03762"
    cost = "O(n m d)"
    exact = True
    grouped = True

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen) @ v

    def attend_sdpa(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute with PyTorch's fused kernels, whichever it selects."""
        grouped = k.shape[1] != self.slot.heads
        if key_mask is None:
            causal = self.slot.pattern is Pattern.CS
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Equation 1, head by head, each exponential written out."""
        batch, heads, n, dim = q.shape
        out = []
        for head in range(heads):
            of = head * k.shape[1] // heads
            weights = (torch.einsum("bid,bjd->bij", q[:, head], k[:, of]) / dim**0.5).exp()
            if self.slot.pattern is Pattern.CS:
                weights = weights.tril()
            if key_mask is not None:
                weights = weights * key_mask[:, None, :]
            total = weights.sum(-1, keepdim=True)
            out.append((weights / total.where(total > 0, 1.0)) @ v[:, of])
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over all n m pairs; the masked half is computed."""
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """In causal self attention, the pairs on and below the diagonal alone."""
        pairs = n * (n + 1) // 2 if self.slot.pattern is Pattern.CS else n * m
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep keys, values and which of them are real."""
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        return k, v, key_mask

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Append the new tokens (CS) and let each read what came up to it."""
        keys, values, real = state
        c, old = q.shape[2], keys.shape[2]
        new = torch.ones(q.shape[0], c, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        seen = real[:, None, None, :]
        if k is not None and v is not None:
            keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
            past = torch.ones(c, old + c, dtype=torch.bool, device=q.device).tril(old)
            seen = real[:, None, None, :] & past
        k, v = repeat_heads(keys, self.slot.heads), repeat_heads(values, self.slot.heads)
        out = masked_softmax((q * self.slot.dim**-0.5) @ k.transpose(-1, -2), seen) @ v
        return out, (keys, values, real)
