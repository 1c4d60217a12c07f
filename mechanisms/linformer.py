"""Linformer (Wang et al., arXiv 2006.04768): softmax(q (E^T k)^T / sqrt(dim)) F^T v, equation 7.

E and F (positions, rank) are learned, with one row for each position of the source. A source of m tokens takes their
first m rows, and a masked token adds nothing. `share` is as in section 4: one E and one F for all heads ("heads"), one
matrix as both E and F of all heads ("kv"), or an E and an F for each head ("none"). Layers share nothing.

A row uses its own query and the projected source alone, so that CC equals NC. CS is impossible, because each projected
key mixes all positions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism
from cab.ops.softmax import repeat_heads


class Linformer(Mechanism):
    """Every query attends to a few learned linear combinations of all keys."""

    patterns = {"NS": "native", "NC": "native", "CC": "native"}
    refuses = {"CS": "every projected key mixes all positions, later ones too"}
    paper = "arXiv 2006.04768"
    parity = "linformer"
    titles = (
        "Self-Attention Amortized Distributional Projection Optimization for Sliced Wasserstein Point-Cloud "
        "Reconstruction",
    )
    cost = "O((n + m) r d)"
    grouped = True
    accepts = {"share": ("none", "heads", "kv")}
    checks = ({"rank": 5}, {"rank": 16, "share": "kv"}, {"rank": 2, "share": "none"})

    def __init__(self, slot: Any, *, rank: int = 256, share: str = "heads") -> None:
        super().__init__(slot)
        if not 1 <= rank <= slot.keys:
            raise ValueError(f"rank={rank}: from 1 to the {slot.keys} keys of the slot")
        self.rank, self.share = rank, share
        shape = (slot.heads, slot.keys, rank) if share == "none" else (slot.keys, rank)
        self.project_k = nn.Parameter(torch.empty(shape).uniform_(-(rank**-0.5), rank**-0.5))
        if share != "kv":
            self.project_v = nn.Parameter(torch.empty(shape).uniform_(-(rank**-0.5), rank**-0.5))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Project the source, then attend to the projected keys and values."""
        return self._attend(q, *self._project(k, v, key_mask))

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute equation 7, head by head."""
        group, outs = self.slot.heads // k.shape[1], []
        for head in range(self.slot.heads):
            e = self.project_k[head] if self.share == "none" else self.project_k
            f = e if self.share == "kv" else self.project_v[head] if self.share == "none" else self.project_v
            keys, values = (w[: t.shape[2]].T @ t[:, head // group] for w, t in ((e, k), (f, v)))
            outs.append((q[:, head] @ keys.mT / self.slot.dim**0.5).softmax(-1) @ values)
        return torch.stack(outs, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the projections, a shared one once for each key head, and attention to the projected source."""
        projected = self.slot.heads if self.share == "none" else self.slot.key_heads
        return 2.0 * (projected * m + self.slot.heads * n) * self.rank * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Project the source (CC)."""
        return self._project(k, v, key_mask)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the projected source."""
        return self._attend(q, *state), state

    def _project(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        e = self.project_k[..., : k.shape[2], :]
        f = e if self.share == "kv" else self.project_v[..., : k.shape[2], :]
        if key_mask is not None:
            k, v = (t.masked_fill(~key_mask[:, None, :, None], 0.0) for t in (k, v))
        if self.share == "none":
            k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
            return torch.einsum("bhjd,hjr->bhrd", k, e), torch.einsum("bhjd,hjr->bhrd", v, f)
        k, v = torch.einsum("bhjd,jr->bhrd", k, e), torch.einsum("bhjd,jr->bhrd", v, f)
        return repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * self.slot.dim**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
