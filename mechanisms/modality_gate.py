"""The gate of PILL (arXiv 2311.02126): softmax attention that lets another modality's values in by degrees.

    o_i = sum over j of softmax_j(q_i . k_j / sqrt(dim)) g_j v_j
    g_j = tanh(W y_j) of this head where token j is of the other modality, and 1 elsewhere

The input `source_modality` is 1 for such tokens. W is zero at first: their values then count for nothing, while their
keys still take part in the softmax.

- CS is the paper's. NS (ours) is the same without the mask.
- NC and CC are ours: tokens of the source are gated.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, visible_in_cache
from cab.ops.softmax import softmax_attention, visible

GATED = 1  # of the input `source_modality`
Mask = Tensor | None


class ModalityGate(Mechanism):
    """Softmax attention whose values of one modality are gated, head by head."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2311.02126"
    titles = ("PILL: Plug Into LLM with Adapter Expert and Attention Gate",)
    cost = "O(n m d)"
    inputs = {"y": ("keys", "real", "width"), "source_modality": ("keys", "index", 3)}

    def __init__(self, slot: Any) -> None:
        super().__init__(slot)
        self.gate = nn.Linear(slot.tokens, slot.heads, bias=False)
        nn.init.zeros_(self.gate.weight)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Mask = None,
        query_mask: Mask = None,
        *,
        y: Tensor,
        source_modality: Tensor,
    ) -> Tensor:
        """Gate the values, and attend."""
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return softmax_attention(q, k, self._gated(v, y, source_modality), seen)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, y: Tensor, source_modality: Tensor) -> Tensor:
        """Token by token, multiply the values of the gated modality."""
        gates = torch.tanh(y[0] @ self.gate.weight.T)
        values = []
        for j, modality in enumerate(source_modality[0].tolist()):
            values.append(v[:, :, j] * gates[j, :, None] if modality == GATED else v[:, :, j])
        scores = q @ k.mT / self.slot.dim**0.5
        if self.slot.pattern is Pattern.CS:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), -torch.inf)
        return scores.softmax(-1) @ torch.stack(values, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the gates, and two products over all pairs."""
        return 2.0 * (m * self.gate.weight.numel() + self.slot.heads * n * m * (self.slot.dim + self.slot.values))

    def flops_needed(self, n: int, m: int) -> float:
        """Leave out, in CS, the pairs above the diagonal."""
        above = n * (n - 1) / 2 if self.slot.pattern is Pattern.CS else 0
        return self.flops(n, m) - 2.0 * self.slot.heads * above * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None, *, y: Tensor, source_modality: Tensor) -> Any:
        """Keep the keys and gated values of the source (CC), or of no token (CS)."""
        source = k, self._gated(v, y, source_modality)
        return extend_cache(empty_cache(*(t[:, :, :0] for t in source)), source, key_mask)[0]

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Mask = None,
        v: Mask = None,
        key_mask: Mask = None,
        *,
        y: Mask = None,
        source_modality: Mask = None,
    ) -> tuple[Tensor, Any]:
        """Keep the new tokens (CS), and attend to all that are kept."""
        position = None
        if v is not None and y is not None and source_modality is not None:
            state, position = extend_cache(state, (k, self._gated(v, y, source_modality)), key_mask)
        return softmax_attention(q, *state[0], visible_in_cache(state, position)), state

    def _gated(self, v: Tensor, y: Tensor, modality: Tensor) -> Tensor:
        gates = torch.tanh(self.gate(y)).masked_fill((modality != GATED).unsqueeze(-1), 1.0)
        return v * gates.transpose(1, 2).unsqueeze(-1).to(v.dtype)
