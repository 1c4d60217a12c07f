"""No attention: the output is zero in every pattern, so that only residual and feed-forward layers remain.

It is the baseline of every accuracy.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism


class Nothing(Mechanism):
    """Every query reads zeros."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    cost = "O(1)"
    reads = ""
    grouped = True
    exempt = {"use": "it is the floor: nothing reaches anything"}

    zero: Tensor

    def __init__(self, slot: Any) -> None:
        super().__init__(slot)
        # holds the device and the dtype of the output, since no tensor is read
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def attend(
        self,
        q: None,
        k: None,
        v: None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Return zeros, (batch, heads, queries, value_dim)."""
        assert query_mask is not None  # always given where q is not read
        batch, n = query_mask.shape
        return self.zero.expand(batch, self.slot.heads, n, self.slot.values)

    def reference(self, q: None, k: None, v: None, query_mask: Tensor) -> Tensor:
        """Return a zero for each query, head and channel."""
        return self.zero.new_zeros(1, self.slot.heads, query_mask.shape[1], self.slot.values)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Return 0: nothing is multiplied."""
        return 0.0
