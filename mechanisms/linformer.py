"""Linformer (Wang et al., arXiv 2006.04768): softmax(q (E^T k)^T / sqrt(dim)) F^T v, equation 7.

E and F (places, rank) are learned and belong to the places of the source: a source of m tokens takes their first m
rows, and a masked token adds nothing. Sharing as in section 4: one E and one F for all heads ("heads", the default),
one matrix that is both ("kv"), or two for each head ("none"); sharing over layers is left to who builds them.

A row needs its own query and the projected source alone, so NC and CC are the same. CS is impossible: each projected
key mixes all places.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism
from cab.ops.softmax import repeat_heads


class Linformer(Mechanism):
    """Every query reads a few learned mixtures of all keys."""

    patterns = {"NS": "native", "NC": "native", "CC": "native"}
    refuses = {"CS": "every projected key mixes all places, later ones too"}
    paper = "arXiv 2006.04768"
    cost = "O((n + m) r d)"
    grouped = True
    checks = ({"rank": 5}, {"rank": 16, "share": "kv"}, {"rank": 2, "share": "none"})

    def __init__(self, slot: Any, *, rank: int = 256, share: str = "heads") -> None:
        super().__init__(slot)
        if not 1 <= rank <= slot.keys:
            raise ValueError(f"rank={rank}: from 1 to the {slot.keys} keys of the slot")
        if share not in ("none", "heads", "kv"):
            raise ValueError(f"share={share!r}: none, heads or kv")
        self.rank, self.share = rank, share
        shape = (slot.heads, slot.keys, rank) if share == "none" else (slot.keys, rank)
        self.project_k = nn.Parameter(torch.empty(shape).uniform_(-(rank**-0.5), rank**-0.5))
        if share != "kv":
            self.project_v = nn.Parameter(torch.empty(shape).uniform_(-(rank**-0.5), rank**-0.5))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Project the source, then attend to what is left of it."""
        return self._read(q, *self._projected(k, v, key_mask))

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 7, head by head."""
        m, out = k.shape[2], []
        real = torch.ones(q.shape[0], m, dtype=q.dtype, device=q.device) if key_mask is None else key_mask.to(q.dtype)
        for head in range(self.slot.heads):
            of = head * k.shape[1] // self.slot.heads
            e = self.project_k[head] if self.share == "none" else self.project_k
            f = self.project_v[head] if self.share == "none" else e if self.share == "kv" else self.project_v
            keys = torch.einsum("bj,jr,bjd->brd", real, e[:m], k[:, of])
            values = torch.einsum("bj,jr,bjd->brd", real, f[:m], v[:, of])
            weights = (torch.einsum("bid,brd->bir", q[:, head], keys) / self.slot.dim**0.5).softmax(-1)
            out.append(weights @ values)
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The projections, a shared one once for each key head, and the attention to them."""
        projected = self.slot.heads if self.share == "none" else self.slot.key_heads
        return 2.0 * (projected * m + self.slot.heads * n) * self.rank * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Project the source (CC)."""
        return self._projected(k, v, key_mask)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the projected source."""
        return self._read(q, *state), state

    def _projected(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        e = self.project_k[..., : k.shape[2], :]
        f = e if self.share == "kv" else self.project_v[..., : k.shape[2], :]
        if key_mask is not None:
            k, v = (t.masked_fill(~key_mask[:, None, :, None], 0.0) for t in (k, v))
        if self.share == "none":
            k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
            return torch.einsum("bhjd,hjr->bhrd", k, e), torch.einsum("bhjd,hjr->bhrd", v, f)
        k, v = torch.einsum("bhjd,jr->bhrd", k, e), torch.einsum("bhjd,jr->bhrd", v, f)
        return repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)

    def _read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ((q * self.slot.dim**-0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
