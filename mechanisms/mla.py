"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): all heads' keys and values come from one small latent.

Of each token y_j only a latent and one rotated key, both for all heads, are kept (equations 9 to 19). Per head,

    c_j = RMSNorm(W_DKV y_j),   [k_j ; v_j] = W_UKV c_j,   r_j = rotate(W_KR y_j),   [p_i ; q_i] = the layer's query
    o_i = sum over j of softmax_j((q_i . k_j + rotate(p_i) . r_j) / sqrt(dim)) v_j

Rotary positions are the slot's; without them nothing turns. Steps write no keys and values out: with W_UKV =
[U_K ; U_V], q . U_K c = (U_K^T q) . c, and U_V multiplies the weighed sum of the latents (section 2.1.2). Queries from
a latent of their own, as the larger models have them, shorten no cache; how queries are made is left to the layer.

- CS is the paper's, and NS the same without the mask.
- NC and CC are ours: latents of the source, and no rotation, as queries and keys have no common positions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Pattern
from cab.ops.norms import rms_norm
from cab.ops.pairwise import Pairwise
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax


class Mla(Pairwise):
    """Softmax attention whose cache is one latent and one key a token, for all heads."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2405.04434"
    parity = "transformers (DeepSeek-V2-Lite, -V3)"
    cost = "O(n m d)"
    reads = "q"
    inputs = {"y": ("keys", "real", "width")}
    rotates = True
    accepts = {"rank": "whole, >= 1", "rotated": "even, >= 2"}
    checks = ({"rank": 5, "rotated": 4}, {"rank": 3, "rotated": 6})

    def __init__(self, slot: Any, *, rank: int | None = None, rotated: int | None = None) -> None:
        super().__init__(slot)
        self.rotated = max(2, 2 * round(slot.dim / 6)) if rotated is None else rotated
        if self.rotated >= slot.dim:
            raise ValueError(f"rotated={self.rotated}: below the {slot.dim} channels of a head")
        plain = slot.dim - self.rotated
        self.rank = 4 * plain if rank is None else rank
        self.sizes, self.base = (plain, slot.values), None if slot.pattern.cross else slot.rotary
        self.down = nn.Linear(slot.tokens, self.rank + self.rotated, bias=False)
        self.scale = nn.Parameter(torch.ones(self.rank))
        self.up = nn.Linear(self.rank, slot.heads * sum(self.sizes), bias=False)

    def keep(self, k: None, v: None, position: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Keep the normed latent and the rotated key of all heads."""
        latent, key = self.down(y).unsqueeze(1).split([self.rank, self.rotated], -1)
        return rms_norm(latent, self.scale), rotate(key, position, self.base)

    def attend(self, q: Tensor, k: None, v: None, key_mask: Any = None, query_mask: Any = None, *, y: Tensor) -> Tensor:
        """Write out every head's keys and values."""
        latent, shared = self.keep_all(k, v, y=y)
        position = torch.arange(q.shape[2], device=q.device)
        q = rotate(q, position, self.base, self.rotated) * self.slot.dim**-0.5
        k, v = self.up(latent).unflatten(-1, (self.slot.heads, -1)).squeeze(1).transpose(1, 2).split(self.sizes, -1)
        k = torch.cat([shared.expand(*k.shape[:3], -1), k], -1)
        return masked_softmax(q @ k.mT, self.seen(q, None, v, key_mask)) @ v

    def read(
        self, q: Tensor, latent: Tensor, shared: Tensor, *, seen: Any, position: Tensor, query_mask: Any
    ) -> Tensor:
        """Attend to latents in the place of keys and values."""
        q = rotate(q, position, self.base, self.rotated) * self.slot.dim**-0.5
        turned, plain = q.split([self.rotated, self.sizes[0]], -1)
        up_k, up_v = self.up.weight.unflatten(0, (self.slot.heads, -1)).split(self.sizes, 1)
        scores = (plain @ up_k) @ latent.mT + turned @ shared.mT
        return (masked_softmax(scores, seen) @ latent) @ up_v.mT

    def reference(self, q: Tensor, k: None, v: None, *, y: Tensor) -> Tensor:
        """Write the equations, head by head."""
        place, outs = torch.arange(y.shape[1], device=y.device), []
        c, r = (y @ self.down.weight.T).split([self.rank, self.rotated], -1)
        c, r = c / ((c**2).mean(-1, keepdim=True) + 1e-6) ** 0.5 * self.scale, rotate(r, place, self.base)
        for head, up in enumerate(self.up.weight.chunk(self.slot.heads)):
            k, v = (c @ up.T).split(self.sizes, -1)
            p, plain = q[:, head].split([self.rotated, self.sizes[0]], -1)
            scores = (plain @ k.mT + rotate(p, place, self.base) @ r.mT) / self.slot.dim**0.5
            if self.slot.pattern is Pattern.CS:
                scores = scores.masked_fill(place > place[:, None], -torch.inf)
            outs.append(scores.softmax(-1) @ v)
        return torch.stack(outs, 1)

    def own_flops(self, n: int, m: int) -> float:
        """Count the latents, and the keys and values written out."""
        return 2.0 * m * (self.down.weight.numel() + self.up.weight.numel())
