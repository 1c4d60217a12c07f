"""Linear attention (Katharopoulos et al., arXiv 2006.16236): phi(q) (phi(k)^T v) / phi(q) (phi(k)^T 1).

phi is the hyper-parameter `features`: elu(x) + 1 of the paper (equation 7), or the map of a later paper
(`cab.ops.feature_maps`). The causal form is the paper's equations 9 and 10, in chunks. A row uses its own query alone,
so that causal cross equals noncausal cross. Rotary positions of the layer turn q and k before phi, where RoFormer turns
phi(q) and phi(k): with them self patterns are ours.
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
    """Keys and values are summed into one state, which every query reads."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"rotary": True},)
    paper = "arXiv 2006.16236"
    parity = "fla (plain functions)"
    cost = "O((n + m) d^2)"
    accepts = {"chunk": ">= 1"}
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
        self.chunk = chunk
        self.query_map = FeatureMap(features, slot.heads, slot.dim, size)
        # keys have a map of their own where the paper learns one; else they share the queries' map
        separate = features in ("hedgehog", "taylor") and self.query_map.flops
        self.key_map = FeatureMap(features, slot.heads, slot.dim, size) if separate else None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sum once (NS, NC, CC), or over prefixes in chunks (CS)."""
        if self.slot.pattern is Pattern.CS:
            return causal_average(self.query_map(q), self._key_features(k, key_mask), v, self.chunk)
        dtype, device = v.dtype, v.device.type
        k, v = summation_operands(self._key_features(k, key_mask), v)
        with full_precision(device):
            state, total = outer_sum(k, v), k.sum(2).unsqueeze(-1)
        del k  # freed before the queries' features are computed
        (q,) = summation_operands(self.query_map(q))
        with full_precision(device):
            total = q @ total  # before the other product, so that its gradient is computed last
            return divide_by_weights(q @ state, total).to(dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute every weight phi(q_i) . phi(k_j), and divide by the sum of the row."""
        weights = self._reference_weights(q, k)
        if self.slot.pattern is Pattern.CS:
            weights = weights.tril()
        total = weights.sum(-1, keepdim=True)
        return (weights / total.where(total > 0, 1.0)) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the maps, the state and its reading, with the normaliser; in CS the products inside chunks too."""
        features = self.query_map.count
        if self.slot.pattern is Pattern.CS:
            summing = causal_average_flops(n, features, self.slot.values, self.chunk)
        else:
            summing = 2.0 * features * ((n + m) * self.slot.values + n)
        return self.slot.heads * (summing + (n + m) * self.query_map.flops)

    def flops_needed(self, n: int, m: int) -> float:
        """Count the maps, one addition of each key to the state, and one read of each query."""
        summing = 2.0 * self.query_map.count * ((n + m) * self.slot.values + n)
        return self.slot.heads * (summing + (n + m) * self.query_map.flops)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the state, (batch, heads, features, value_dim + 1), in float32 at least: 16-bit sums stop growing."""
        k, v = self._summands(k, v, key_mask)
        with full_precision(v.device.type):
            return outer_sum(k, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the state, and in CS the new tokens up to each one."""
        dtype, new = q.dtype, None if k is None or v is None else self._summands(k, v, key_mask)
        q = self.query_map(q).to(state.dtype)
        with full_precision(q.device.type):
            out = q @ state
            if new is not None:
                out = out + causal_linear(q, *new, self.chunk)
                state = updated_state(state, *new)
            return normalise(out).to(dtype), state

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return phi(k), zero where masked, and v with a column of ones for the normaliser, in float32 at least."""
        k = self._key_features(k, key_mask)
        return k.to(at_least_float32(k)), F.pad(v.to(at_least_float32(v)), (0, 1), value=1.0)

    def _key_features(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        k = (self.key_map or self.query_map)(k)
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _reference_weights(self, q: Tensor, k: Tensor) -> Tensor:
        """Return phi(q) . phi(k) of every query and key, as the paper of each map has it."""
        phi, key_phi = self.query_map, self.key_map or self.query_map
        if phi.flops:
            q, k = q @ phi.weight, k @ key_phi.weight
        if phi.name == "taylor":
            scores = q @ k.mT / q.shape[-1] ** 0.5
            return 1 + scores + scores**2 / 2
        if phi.name == "dpfp":
            q, k = (torch.cat([x.clamp(min=0), -x.clamp(max=0)], -1) for x in (q, k))
            size, channels = phi.size, range(q.shape[-1])
            products = [
                [x[..., c] * x[..., c - shift] for c in channels for shift in range(1, size + 1)] for x in (q, k)
            ]
            q, k = (torch.stack(p, -1) for p in products)
        elif phi.name == "hedgehog":
            q, k = (torch.cat([s.exp() / s.exp().sum(-1, keepdim=True) for s in (x, -x)], -1) for x in (q, k))
        elif phi.name == "elu":
            q, k = (torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
        else:
            q, k = ((x + phi.bias if phi.name == "t2r" else x).clamp(min=0) for x in (q, k))
        return q @ k.mT
