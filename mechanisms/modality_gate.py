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

from cab import Pattern
from cab.ops.pairwise import Pairwise

GATED = 1  # of the input `source_modality`


class ModalityGate(Pairwise):
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

    def keep(self, k: Tensor, v: Tensor, position: Tensor, y: Tensor, source_modality: Tensor) -> tuple[Tensor, ...]:
        """Keep the keys and the gated values."""
        gates = torch.tanh(self.gate(y)).masked_fill((source_modality != GATED).unsqueeze(-1), 1.0)
        return k, v * gates.transpose(1, 2).unsqueeze(-1).to(v.dtype)

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

    def own_flops(self, n: int, m: int) -> float:
        """Count the gates."""
        return 2.0 * m * self.gate.weight.numel()
