"""Efficient attention (Shen et al., arXiv 1812.01243, equation 3): softmax over channels of q, over tokens of k.

Each channel of the keys is one softmax over the tokens, which gathers a mean of the values; each query mixes these
means by a softmax over its own channels. Neither q nor k is scaled, as in the paper. A row uses its own query alone,
so causal cross equals noncausal cross; in CS the softmax over tokens runs over those so far.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.running_softmax import empty_state, running_softmax, running_softmax_flops
from cab.ops.softmax import masked_softmax


class Efficient(Mechanism):
    """Every channel gathers one mean of the values; queries mix the channels."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "native"}
    paper = "arXiv 1812.01243"
    cost = "O((n + m) d^2)"
    checks = ({"chunk": 8}, {"chunk": 1})

    def __init__(self, slot: Any, *, chunk: int = 64) -> None:
        super().__init__(slot)
        if chunk < 1 or chunk & (chunk - 1):
            raise ValueError(f"chunk={chunk}: a power of two is needed")
        self.chunk = chunk

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Gather once (NS, NC, CC), or with a softmax that runs over time (CS)."""
        if self.slot.pattern is Pattern.CS:
            return running_softmax(k, q.softmax(-1), v, empty_state(self.slot.dim, v), self.chunk, key_mask)[0]
        return q.softmax(-1) @ self._gathered(k, v, key_mask)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write the weight of every pair of query and key: sum over channels of the two softmaxes."""
        n, m = q.shape[2], k.shape[2]
        real = torch.ones(q.shape[0], m, device=q.device) if key_mask is None else key_mask
        seen = real[:, None, :].expand(-1, n, -1)
        if self.slot.pattern is Pattern.CS:
            seen = seen.tril()
        read, out = q.exp() / q.exp().sum(-1, keepdim=True), torch.zeros_like(q[..., :1]) * v[:, :, :1]
        for channel in range(q.shape[3]):
            gather = k[:, :, None, :, channel].exp() * seen[:, None].to(k.dtype)
            total = gather.sum(-1, keepdim=True)
            out = out + read[..., channel, None] * ((gather / total.where(total > 0, 1.0)) @ v)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Gathering and reading; in CS the products inside the chunks too."""
        if self.slot.pattern is Pattern.CS:
            return self.slot.heads * running_softmax_flops(n, self.slot.dim, self.slot.values, self.chunk)
        return self.flops_needed(n, m)

    def flops_needed(self, n: int, m: int) -> float:
        """Each key is gathered once by each channel, and each query reads each channel once."""
        return 2.0 * self.slot.heads * (n + m) * self.slot.dim * self.slot.values

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Gather from the source (CC), or begin with empty sums (CS)."""
        return self._gathered(k, v, key_mask) if self.slot.pattern.cross else empty_state(self.slot.dim, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the gathered source (CC), or gather from the new tokens too (CS)."""
        if k is None or v is None:
            return q.softmax(-1) @ state, state
        return running_softmax(k, q.softmax(-1), v, state, self.chunk, key_mask)

    def _gathered(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Average the values by each channel's softmax over the tokens: (batch, heads, dim, value_dim)."""
        seen = None if key_mask is None else key_mask[:, None, None, :]
        return masked_softmax(k.transpose(-1, -2), seen) @ v
