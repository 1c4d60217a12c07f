"""Linear attention (Katharopoulos et al., arXiv 2006.16236): phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1).

phi(x) = elu(x) + 1, equation 7. A row uses its own query and sums over keys, so causal cross equals noncausal cross;
the causal form is the paper's equations 9 and 10, chunked.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.prefix import appended, causal_linear, causal_linear_flops


class Linear(Mechanism):
    """Keys and values summed into one state that every query reads."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2006.16236"
    cost = "O((n + m) d^2)"
    checks = ({}, {"chunk": 4})

    def __init__(self, slot: Any, *, chunk: int = 64) -> None:
        super().__init__(slot)
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: at least 1 token is needed")
        self.chunk = chunk

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Sum once (NS, NC, CC), or over prefixes in chunks (CS)."""
        q, (k, v) = features(q), self._summands(k, v, key_mask)
        if self.slot.pattern is Pattern.CS:
            return normalised(causal_linear(q, k, v, self.chunk))
        return normalised(q @ (k.transpose(-1, -2) @ v))

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Write the whole matrix of weights phi(q) phi(k)^T and normalise its rows."""
        weights = torch.einsum("bhid,bhjd->bhij", features(q), features(k))
        if self.slot.pattern is Pattern.CS:
            weights = weights.tril()
        if key_mask is not None:
            weights = weights * key_mask[:, None, None, :]
        total = weights.sum(-1, keepdim=True)
        return (weights / total.where(total > 0, 1.0)) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """State and reading; in CS the products inside the chunks too. The normaliser is one more value."""
        dim, size = self.slot.dim, self.slot.values + 1
        if self.slot.pattern is Pattern.CS:
            return self.slot.heads * causal_linear_flops(n, dim, size, self.chunk)
        return 2.0 * self.slot.heads * (n + m) * dim * size

    def flops_needed(self, n: int, m: int) -> float:
        """Each key enters the state once and each query reads it once."""
        return 2.0 * self.slot.heads * (n + m) * self.slot.dim * (self.slot.values + 1)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Sum over the source: (batch, heads, dim, value_dim + 1)."""
        k, v = self._summands(k, v, key_mask)
        return k.transpose(-1, -2) @ v

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the state, and among the new tokens (CS) those up to each one."""
        q = features(q)
        out = q @ state
        if k is not None and v is not None:
            k, v = self._summands(k, v, key_mask)
            out = out + causal_linear(q, k, v, self.chunk)
            state = appended(state, k, v)
        return normalised(out), state

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return phi(k), zero where masked, and v with a column of ones that becomes the normaliser."""
        k = features(k)
        if key_mask is not None:
            k = k.masked_fill(~key_mask[:, None, :, None], 0.0)
        return k, F.pad(v, (0, 1), value=1.0)


def features(x: Tensor) -> Tensor:
    """elu(x) + 1: positive, so that weights are."""
    return F.elu(x) + 1


def normalised(sums: Tensor) -> Tensor:
    """Divide by the last column, the sum of the weights; a row that sees nothing stays zero."""
    out, total = sums[..., :-1], sums[..., -1:]
    return out / total.where(total > 0, 1.0)
