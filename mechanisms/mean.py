"""The mean of the values that a query may see: attention without scores.

It is a baseline: what a mechanism gains over it comes from its weights. Softmax attention equals it where all scores
are equal.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.means import masked_mean, running_mean
from cab.ops.precision import at_least_float32
from cab.ops.softmax import repeat_heads


class Mean(Mechanism):
    """Every query reads the mean of all values, in CS of those up to its own."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    cost = "O((n + m) d)"
    reads = "v"
    grouped = True

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute one mean for all queries, or in CS the running mean."""
        assert query_mask is not None  # always given where q is not read
        if self.slot.pattern is Pattern.CS:
            return running_mean(repeat_heads(v, self.slot.heads), key_mask)
        return masked_mean(repeat_heads(v, self.slot.heads), key_mask).expand(-1, -1, query_mask.shape[1], -1)

    def reference(self, q: None, k: None, v: Tensor, query_mask: Tensor | None = None) -> Tensor:
        """Compute the mean of v_1, ..., v_m for each query, in CS of v_1, ..., v_i for query i."""
        v = v.repeat_interleave(self.slot.heads // v.shape[1], 1)
        m = v.shape[2]
        n = m if query_mask is None else query_mask.shape[1]
        counts = range(1, n + 1) if self.slot.pattern is Pattern.CS else [m] * n
        return torch.stack([v[:, :, :count].mean(2) for count in counts], 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Return 0: nothing is multiplied."""
        return 0.0

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the mean of the source (CC), or a sum and a number of values, both zero (CS)."""
        v = repeat_heads(v, self.slot.heads)
        if self.slot.pattern.cross:
            return masked_mean(v, key_mask)
        count = torch.zeros(v.shape[0], 1, dtype=torch.long, device=v.device)
        return v.sum(2, keepdim=True, dtype=at_least_float32(v)), count

    def step(
        self, state: Any, q: None, k: None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Repeat the mean for as many queries as `key_mask` has (CC), or continue the prefix sums (CS)."""
        if v is None:
            assert key_mask is not None  # q is not read
            return state.expand(-1, -1, key_mask.shape[1], -1), state
        total, count = state
        real = torch.ones_like(v[:, 0, :, 0], dtype=torch.bool) if key_mask is None else key_mask
        v = repeat_heads(v, self.slot.heads).masked_fill(~real[:, None, :, None], 0.0)
        sums, counts = total + v.cumsum(2, dtype=total.dtype), count + real.cumsum(1)
        out = (sums / counts.clamp(min=1)[:, None, :, None]).to(v.dtype)
        return out, (sums[:, :, -1:], counts[:, -1:])
