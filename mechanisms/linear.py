"""Linear attention (Katharopoulos et al., arXiv 2006.16236): phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1).

phi is a hyper-parameter: elu(x) + 1 of the paper (equation 7), or the map of a later one (`cab.ops.feature_maps`).
A row uses its own query and sums over keys, so causal cross equals noncausal cross; the causal form is the paper's
equations 9 and 10, chunked.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.feature_maps import FeatureMap
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import (
    causal_average,
    causal_average_flops,
    causal_linear,
    divide_by_weights,
    normalise,
    outer_sum,
    summation_operands,
    updated_state,
)


class Linear(Mechanism):
    """Keys and values summed into one state that every query reads."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2006.16236"
    cost = "O((n + m) d^2)"
    checks = (
        {"chunk": 4},
        {"features": "relu"},
        {"features": "taylor", "size": 3, "chunk": 4},
        {"features": "hedgehog", "chunk": 4},
        {"features": "dpfp", "size": 3, "chunk": 4},
        {"features": "t2r", "size": 11, "chunk": 4},
    )

    def __init__(self, slot: Any, *, features: str = "elu", size: int | None = None, chunk: int = 64) -> None:
        super().__init__(slot)
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: at least 1 token is needed")
        self.chunk = chunk
        self.of_query = FeatureMap(features, slot.heads, slot.dim, size)
        # one phi for both where the paper has one, or where it has nothing to learn
        apart = features in ("hedgehog", "taylor") and self.of_query.flops
        self.of_key = FeatureMap(features, slot.heads, slot.dim, size) if apart else None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sum once (NS, NC, CC), or over prefixes in chunks (CS)."""
        if self.slot.pattern is Pattern.CS:
            return causal_average(self.of_query(q), self._features(k, key_mask), v, self.chunk)
        dtype, device = v.dtype, v.device.type
        k, v = summation_operands(self._features(k, key_mask), v)
        with full_precision(device):
            state, total = outer_sum(k, v), k.sum(2).unsqueeze(-1)
        del k  # the queries' features take its room
        (q,) = summation_operands(self.of_query(q))
        with full_precision(device):
            total = q @ total  # before the other product, so that its gradient comes last and waits for nothing
            return divide_by_weights(q @ state, total).to(dtype)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write the whole matrix of weights phi(q) phi(k)^T, as each paper has it, and normalise its rows."""
        weights = self._weights(q, k)
        if self.slot.pattern is Pattern.CS:
            weights = weights.tril()
        if key_mask is not None:
            weights = weights * key_mask[:, None, None, :]
        total = weights.sum(-1, keepdim=True)
        return (weights / total.where(total > 0, 1.0)) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Maps, state and reading; in CS the products inside the chunks too. The normaliser is one more value."""
        features = self.of_query.count
        if self.slot.pattern is Pattern.CS:
            summing = causal_average_flops(n, features, self.slot.values, self.chunk)
        else:
            summing = 2.0 * features * ((n + m) * self.slot.values + n)
        return self.slot.heads * (summing + (n + m) * self.of_query.flops)

    def flops_needed(self, n: int, m: int) -> float:
        """Each key enters the state once and each query reads it once."""
        summing = 2.0 * self.of_query.count * ((n + m) * self.slot.values + n)
        return self.slot.heads * (summing + (n + m) * self.of_query.flops)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Sum over the source: (batch, heads, features, value_dim + 1), in float32 at least: it must not stall."""
        k, v = self._summands(k, v, key_mask)
        with full_precision(v.device.type):
            return outer_sum(k, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the state, and among the new tokens (CS) those up to each one."""
        dtype, new = q.dtype, None if k is None or v is None else self._summands(k, v, key_mask)
        q = self.of_query(q).to(state.dtype)
        with full_precision(q.device.type):
            out = q @ state
            if new is not None:
                out = out + causal_linear(q, *new, self.chunk)
                state = updated_state(state, *new)
            return normalise(out).to(dtype), state

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return phi(k), zero where masked, and v with a column of ones for the normaliser, in float32 at least."""
        k = self._features(k, key_mask)
        return k.to(at_least_float32(k)), F.pad(v.to(at_least_float32(v)), (0, 1), value=1.0)

    def _features(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        k = (self.of_key or self.of_query)(k)
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _weights(self, q: Tensor, k: Tensor) -> Tensor:
        name, maps = self.of_query.name, (self.of_query, self.of_key or self.of_query)
        if self.of_query.flops:
            q, k = (torch.einsum("bhid,hdf->bhif", x, phi.weight) for x, phi in zip((q, k), maps, strict=True))
        if name == "taylor":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5
            return 1 + scores + scores**2 / 2
        if name == "dpfp":
            size, total = self.of_query.size, 0.0
            q, k = (torch.cat([x.clamp(min=0), -x.clamp(max=0)], -1) for x in (q, k))
            for channel in range(q.shape[-1]):
                for places in range(1, size + 1):
                    products = [x[..., channel] * x[..., channel - places] for x in (q, k)]
                    total = total + products[0].unsqueeze(-1) * products[1].unsqueeze(-2)
            return total
        if name == "hedgehog":
            q, k = (torch.cat([s.exp() / s.exp().sum(-1, keepdim=True) for s in (x, -x)], -1) for x in (q, k))
        elif name == "elu":
            q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
        else:
            bias = self.of_query.bias if name == "t2r" else 0.0
            q, k = ((x + bias).clamp(min=0) for x in (q, k))
        return torch.einsum("bhif,bhjf->bhij", q, k)
