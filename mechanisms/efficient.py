"""Efficient attention (Shen et al., arXiv 1812.01243, equation 3): softmax over channels of q, over tokens of k.

Each channel of the keys averages the values by its softmax over the tokens. Each query averages these means by a
softmax over its own channels. Neither q nor k is scaled, as in the paper. In CS the softmax over tokens runs over the
tokens up to the query's own. A row uses its own query alone, so that causal cross equals noncausal cross.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.running_softmax import empty_state, running_softmax, running_softmax_flops
from cab.ops.softmax import masked_softmax


class Efficient(Mechanism):
    """Every channel averages the values; queries average the channels."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "native"}
    paper = "arXiv 1812.01243"
    parity = "performer-pytorch"
    titles = (
        "Self-Attention Amortized Distributional Projection Optimization for Sliced Wasserstein Point-Cloud "
        "Reconstruction",
    )
    cost = "O((n + m) d^2)"
    accepts = {"chunk": "power of two"}
    checks = ({"chunk": 8}, {"chunk": 1})

    def __init__(self, slot: Any, *, chunk: int = 64) -> None:
        super().__init__(slot)
        self.chunk = chunk

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Average the values once (NS, NC, CC), or with a softmax that runs over the tokens (CS)."""
        if self.slot.pattern is Pattern.CS:
            return running_softmax(k, q.softmax(-1), v, empty_state(self.slot.dim, v), self.chunk, key_mask)[0]
        return q.softmax(-1) @ self._channel_means(k, v, key_mask)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write both softmaxes out; in CS, the one over tokens row by row."""

        def channel_means(count: int) -> Tensor:
            weights = k[:, :, :count].exp()
            return (weights / weights.sum(2, keepdim=True)).mT @ v[:, :, :count]

        read = q.exp() / q.exp().sum(-1, keepdim=True)
        if self.slot.pattern is Pattern.CS:
            return torch.cat([read[:, :, [i]] @ channel_means(i + 1) for i in range(q.shape[2])], 2)
        return read @ channel_means(k.shape[2])

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the means and their reading; in CS the products inside chunks too."""
        if self.slot.pattern is Pattern.CS:
            return self.slot.heads * running_softmax_flops(n, self.slot.dim, self.slot.values, self.chunk)
        return self.flops_needed(n, m)

    def flops_needed(self, n: int, m: int) -> float:
        """Count one addition of each key to each channel's mean, and one read of each query."""
        return 2.0 * self.slot.heads * (n + m) * self.slot.dim * self.slot.values

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Average the source (CC), or begin with empty sums (CS)."""
        return self._channel_means(k, v, key_mask) if self.slot.pattern.cross else empty_state(self.slot.dim, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the channels' means, which in CS take the new tokens in first."""
        if k is None or v is None:
            return q.softmax(-1) @ state, state
        return running_softmax(k, q.softmax(-1), v, state, self.chunk, key_mask)

    def _channel_means(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return each channel's mean of the values, (batch, heads, dim, value_dim)."""
        seen = None if key_mask is None else key_mask[:, None, None, :]
        return masked_softmax(k.transpose(-1, -2), seen) @ v
