"""No attention: zeros in every pattern, so that residual and feed-forward remain.

The floor that every accuracy is read against.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism


class Nothing(Mechanism):
    """Reads nothing and says nothing."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    cost = "O(1)"
    reads = ""
    grouped = True
    exempt = {"use": "it is the floor: nothing reaches anything"}

    zero: Tensor

    def __init__(self, slot: Any) -> None:
        super().__init__(slot)
        # gives the output the module's device and dtype, since no tensor arrives that could
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

    reference = attend

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Nothing is multiplied."""
        return 0.0
