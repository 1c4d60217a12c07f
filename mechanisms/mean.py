"""The mean of the visible values, for every query alike: attention that does not look.

A control: what a mechanism gains over it, it gains by weighing. Softmax attention is this where all scores are equal.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.means import masked_mean, running_mean
from cab.ops.precision import at_least_float32
from cab.ops.softmax import repeat_heads


class Mean(Mechanism):
    """Every query reads the mean of the values that it may see: all of them, in CS those up to its own."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    cost = "O((n + m) d)"
    reads = "v"
    grouped = True

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Add up once, or over prefixes (CS)."""
        assert query_mask is not None  # always given where q is not read
        if self.slot.pattern is Pattern.CS:
            return running_mean(repeat_heads(v, self.slot.heads), key_mask)
        return masked_mean(repeat_heads(v, self.slot.heads), key_mask).expand(-1, -1, query_mask.shape[1], -1)

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Row by row, sample by sample, over the real values."""
        assert query_mask is not None
        out = v.new_zeros(v.shape[0], self.slot.heads, query_mask.shape[1], v.shape[3])
        v = v.repeat_interleave(self.slot.heads // v.shape[1], 1)
        for b in range(out.shape[0]):
            for i in range(out.shape[2]):
                last = i + 1 if self.slot.pattern is Pattern.CS else v.shape[2]
                seen = v[b, :, :last] if key_mask is None else v[b, :, :last][:, key_mask[b, :last]]
                if seen.shape[1]:
                    out[b, :, i] = seen.mean(1)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Nothing is multiplied."""
        return 0.0

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Average the source (CC); or begin with the sum of no value, and their number (CS)."""
        v = repeat_heads(v, self.slot.heads)
        if self.slot.pattern.cross:
            return masked_mean(v, key_mask)
        count = torch.zeros(v.shape[0], 1, dtype=torch.long, device=v.device)
        return v.sum(2, keepdim=True, dtype=at_least_float32(v)), count

    def step(
        self, state: Any, q: None, k: None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Give the mean to as many queries as `key_mask` has (CC); or add the new values one by one (CS)."""
        if v is None:
            assert key_mask is not None  # q is not read
            return state.expand(-1, -1, key_mask.shape[1], -1), state
        total, count = state
        new = torch.ones_like(v[:, 0, :, 0], dtype=torch.bool) if key_mask is None else key_mask
        v = repeat_heads(v, self.slot.heads).masked_fill(~new[:, None, :, None], 0.0)
        sums, counts = total + v.cumsum(2, dtype=total.dtype), count + new.cumsum(1)
        out = (sums / counts.clamp(min=1)[:, None, :, None]).to(v.dtype)
        return out, (sums[:, :, -1:], counts[:, -1:])
