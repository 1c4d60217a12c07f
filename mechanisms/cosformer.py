"""cosFormer (Qin et al., arXiv 2202.08791): ReLU features, reweighted by the distance of query and key.

The weight of key j for query i is relu(q_i) . relu(k_j) cos(pi (i - j) / 2M), which splits into features (equation
10). The weights of a query are divided by their sum. The authors' code clamps that sum at 1e-6; here it has no epsilon,
and a query whose weights are all zero gives zeros.

The authors' code takes M = max(n, m). Here M is the hyper-parameter `length`, or the longest length of the slot,
because a causal row must not depend on n. A smaller M would make weights negative.

A row uses its own query and position alone, so that causal cross equals noncausal cross. The paper has no positions
beside its own: with rotary positions self patterns are ours.
"""

from math import pi
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.feature_maps import elu_plus_one
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import (
    causal_average,
    causal_average_flops,
    causal_linear,
    normalise,
    outer_sum,
    summation_operands,
    updated_state,
)


class Cosformer(Mechanism):
    """Linear attention whose weights fall with distance by a cosine."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "extension"}
    ours = ({"rotary": True},)
    paper = "arXiv 2202.08791"
    cost = "O((n + m) d^2)"
    accepts = {"chunk": ">= 1", "features": ("relu", "elu")}
    checks = ({"chunk": 4}, {"features": "elu", "length": 200})
    limits = (
        {
            "params": {"length": 1000000000},
            "equals": "linear",
            "equals_params": {"features": "relu"},
        },
    )

    def __init__(self, slot: Any, *, features: str = "relu", length: int | None = None, chunk: int = 64) -> None:
        super().__init__(slot)
        longest = max(slot.max_len, slot.source_len)
        if length is not None and length < longest:
            raise ValueError(f"length={length}: at least the {longest} tokens of the slot, or weights are negative")
        self.features, self.length, self.chunk = features, length or longest, chunk

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sum once (NS, NC, CC), or over prefixes in chunks (CS)."""
        if self.slot.pattern is Pattern.CS:
            q, k = self._features(q, _positions(q)), self._key_features(k, _positions(k), key_mask)
            return causal_average(q, k, v, self.chunk)
        dtype, q, k = v.dtype, self._features(q, _positions(q)), self._key_features(k, _positions(k), key_mask)
        q, k, v = summation_operands(q, k, F.pad(v, (0, 1), value=1.0))
        with full_precision(v.device.type):
            return normalise(q @ outer_sum(k, v)).to(dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute every weight, with the cosine of its distance, and divide by the sum of the row."""
        i, j = (torch.arange(t.shape[2], device=q.device, dtype=torch.float64) for t in (q, k))
        q, k = (x.clamp(min=0) if self.features == "relu" else torch.where(x > 0, x + 1, x.exp()) for x in (q, k))
        weights = q @ k.mT * torch.cos(pi * (i[:, None] - j) / (2 * self.length)).to(q.dtype)
        if self.slot.pattern is Pattern.CS:
            weights = weights.tril()
        total = weights.sum(-1, keepdim=True)
        return (weights / total.where(total > 0, 1.0)) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the state and its reading, with two features a channel; in CS the products inside chunks too."""
        if self.slot.pattern is Pattern.CS:
            return self.slot.heads * causal_average_flops(n, 2 * self.slot.dim, self.slot.values, self.chunk)
        return self.flops_needed(n, m)

    def flops_needed(self, n: int, m: int) -> float:
        """Count one addition of each key to the state, and one read of each query."""
        return 2.0 * self.slot.heads * (n + m) * 2 * self.slot.dim * (self.slot.values + 1)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Sum over the source (CC) or over no token (CS), in float32 at least; count the queries so far, (batch,)."""
        k, v = self._summands(k, v, _positions(k), key_mask)
        with full_precision(v.device.type):
            sums = outer_sum(k, v)
        return sums, torch.zeros(k.shape[0], dtype=torch.long, device=k.device)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the state from the next positions, and in CS the new tokens up to each one."""
        sums, count = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        positions = (count.unsqueeze(1) + new.cumsum(1) - 1)[:, None, :, None]
        dtype, q = q.dtype, self._features(q, positions).to(sums.dtype)
        with full_precision(q.device.type):
            out = q @ sums
            if k is not None and v is not None:
                k, v = self._summands(k, v, positions, key_mask)
                out = out + causal_linear(q, k, v, self.chunk)
                sums = updated_state(sums, k, v)
            return normalise(out).to(dtype), (sums, count + new.sum(1))

    def _features(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return the features times the cosine, and times the sine, of the position's angle."""
        x = x.relu() if self.features == "relu" else elu_plus_one(x)
        # angles in float32 at least: in 16 bits neighbouring positions would be equal
        angle = positions * torch.ones((), dtype=at_least_float32(x), device=x.device)
        angle = angle * (pi / (2 * self.length))
        return torch.cat([x * angle.cos().to(x.dtype), x * angle.sin().to(x.dtype)], -1)

    def _summands(self, k: Tensor, v: Tensor, positions: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return phi(k), zero where masked, and v with a column of ones for the normaliser, in float32 at least."""
        k = self._key_features(k, positions, key_mask)
        return k.to(at_least_float32(k)), F.pad(v.to(at_least_float32(v)), (0, 1), value=1.0)

    def _key_features(self, k: Tensor, positions: Tensor, key_mask: Tensor | None) -> Tensor:
        k = self._features(k, positions)
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)


def _positions(t: Tensor) -> Tensor:
    return torch.arange(t.shape[2], device=t.device).unsqueeze(1)
