"""Sigmoid attention (Ramapuram et al., arXiv 2409.04431): sigmoid(q k^T / sqrt(dim) + b) v, equation 3.

The weights of a row are not normalised; b keeps their sum near 1. The paper sets b = -log n for a sequence of n
tokens. Here n is the number of unmasked keys that the query sees. In CS these are the keys up to its own, so that no
row depends on a later token. `bias` replaces b by one number. A row depends on its own query, the keys and their
number, so all four patterns are the paper's.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.softmax import repeat_heads, visible


class Sigmoid(Mechanism):
    """Every query weighs every key that it may see, independently of the other keys."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 2409.04431"
    titles = ("Theory, Analysis, and Best Practices for Sigmoid Self-Attention",)
    cost = "O(n m d)"
    grouped = True
    checks = ({}, {"bias": -2.0})

    def __init__(self, slot: Any, *, bias: float | None = None) -> None:
        super().__init__(slot)
        if bias is not None and not isinstance(bias, int | float):
            raise ValueError(f"bias={bias!r}: a number, or null for minus the logarithm of the number of visible keys")
        self.bias = bias

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        n, m = q.shape[2], k.shape[2]
        if self.slot.pattern is Pattern.CS:
            count = torch.arange(1, n + 1, device=q.device)[None] if key_mask is None else key_mask.cumsum(1)
        else:
            count = torch.full((1, 1), m, device=q.device) if key_mask is None else key_mask.sum(1, keepdim=True)
        return self._attend(q, k, v, count, visible(self.slot.pattern, n, m, key_mask, q.device))

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute equation 3, the sigmoid written out."""
        group, causal = self.slot.heads // k.shape[1], self.slot.pattern is Pattern.CS
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.mT / self.slot.dim**0.5
        visible_keys = torch.ones_like(scores).tril() if causal else torch.ones_like(scores)
        bias = -visible_keys.sum(-1, keepdim=True).log() if self.bias is None else self.bias
        return visible_keys / (1 + (-scores - bias).exp()) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over all n m pairs; the masked half is computed."""
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Count two products over the pairs that are seen: in CS, those on and below the diagonal."""
        pairs = n * (n + 1) // 2 if self.slot.pattern is Pattern.CS else n * m
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return keys, values and the mask of the real ones."""
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        return k, v, key_mask

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Append the new tokens (CS), and let each query attend to the tokens up to its own."""
        keys, values, real = state
        if k is None or v is None:
            return self._attend(q, keys, values, real.sum(1, keepdim=True), real[:, None, None, :]), state
        c, old = q.shape[2], keys.shape[2]
        new = torch.ones(q.shape[0], c, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
        past = torch.ones(c, old + c, dtype=torch.bool, device=q.device).tril(old)
        count = real.cumsum(1)[:, old:]
        return self._attend(q, keys, values, count, real[:, None, None, :] & past), (keys, values, real)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, count: Tensor, seen: Tensor | None) -> Tensor:
        """Attend with a mask `seen`; `count` is the number of keys that each query sees, (batch or 1, queries or 1)."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        if self.bias is None:
            wide = torch.promote_types(q.dtype, torch.float32)  # 16 bits do not hold larger counts exactly
            scores = scores - count.clamp(min=1).to(wide).log().to(q.dtype)[:, None, :, None]
        else:
            scores = scores + self.bias
        weights = scores.sigmoid()
        return (weights if seen is None else weights.masked_fill(~seen, 0.0)) @ v
