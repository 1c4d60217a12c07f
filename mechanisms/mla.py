"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): all heads' keys and values come from one small latent.

Of each token y_j only a latent and one rotated key, both for all heads, are kept (equations 9 to 19). Per head,

    c_j = RMSNorm(W_DKV y_j),   [k_j ; v_j] = W_UKV c_j,   r_j = rotate(W_KR y_j),   [p_i ; q_i] = the layer's query
    o_i = sum over j of softmax_j((q_i . k_j + rotate(p_i) . r_j) / sqrt(dim)) v_j

Rotary positions are the slot's; without them nothing turns. `step` writes no keys and values out: with W_UKV =
[U_K ; U_V], q . U_K c = (U_K^T q) . c, and U_V multiplies the weighed sum of the latents (section 2.1.2). Queries from
a latent of their own, as the larger models have them, shorten no cache; how queries are made is left to the layer.

- CS is the paper's, and NS the same without the mask.
- NC and CC are ours: latents of the source, and no rotation, as queries and keys have no common positions.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, next_positions, visible_in_cache
from cab.ops.norms import rms_norm
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax, visible

Mask = Tensor | None


class Mla(Mechanism):
    """Softmax attention whose cache is one latent and one key a token, for all heads."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2405.04434"
    cost = "O(n m d)"
    reads = "q"
    inputs = {"y": ("keys", "real", "width")}
    rotates = True
    checks = ({"rank": 5, "rotated": 4}, {"rank": 3, "rotated": 6})

    def __init__(self, slot: Any, *, rank: int | None = None, rotated: int | None = None) -> None:
        super().__init__(slot)
        self.rotated = max(2, 2 * round(slot.dim / 6)) if rotated is None else rotated
        if not 2 <= self.rotated < slot.dim or self.rotated % 2:
            raise ValueError(
                f"rotated={self.rotated}: an even number from 2 on, below the {slot.dim} channels of a head"
            )
        plain = slot.dim - self.rotated
        self.rank = 4 * plain if rank is None else rank
        if self.rank < 1:
            raise ValueError(f"rank={rank}: at least 1 is needed")
        self.sizes, self.base = (plain, slot.values), None if slot.pattern.cross else slot.rotary
        self.down = nn.Linear(slot.tokens, self.rank + self.rotated, bias=False)
        self.scale = nn.Parameter(torch.ones(self.rank))
        self.up = nn.Linear(self.rank, slot.heads * sum(self.sizes), bias=False)

    def attend(
        self, q: Tensor, k: None, v: None, key_mask: Mask = None, query_mask: Mask = None, *, y: Tensor
    ) -> Tensor:
        """Write out every head's keys and values."""
        n, m = q.shape[2], y.shape[1]
        latent, shared = self._latents(y, torch.arange(m, device=y.device))
        q = rotate(q, torch.arange(n, device=q.device), self.base, self.rotated) * self.slot.dim**-0.5
        k, v = self.up(latent).unflatten(-1, (self.slot.heads, -1)).squeeze(1).transpose(1, 2).split(self.sizes, -1)
        k = torch.cat([shared.expand(*k.shape[:3], -1), k], -1)
        return masked_softmax(q @ k.mT, visible(self.slot.pattern, n, m, key_mask, q.device)) @ v

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

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the latents, the keys and values written out, and softmax attention."""
        projections = m * (self.down.weight.numel() + self.up.weight.numel())
        return 2.0 * (projections + self.slot.heads * n * m * (self.slot.dim + self.slot.values))

    def flops_needed(self, n: int, m: int) -> float:
        """Leave out, in CS, the pairs above the diagonal."""
        above = n * (n - 1) / 2 if self.slot.pattern is Pattern.CS else 0
        return self.flops(n, m) - 2.0 * self.slot.heads * above * (self.slot.dim + self.slot.values)

    def init_state(self, k: None, v: None, key_mask: Mask = None, *, y: Tensor) -> Any:
        """Keep the latents of the source (CC), or of no token (CS)."""
        latents = self._latents(y, torch.arange(y.shape[1], device=y.device))
        return extend_cache(empty_cache(*(t[:, :, :0] for t in latents)), latents, key_mask)[0]

    def step(
        self, state: Any, q: Tensor, k: None = None, v: None = None, key_mask: Mask = None, *, y: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Keep the new tokens' latents (CS), and attend to latents in the place of keys and values."""
        position = None
        if y is not None:
            position = next_positions(state, y.shape[1], key_mask)
            state, _ = extend_cache(state, self._latents(y, position), key_mask)
            q = rotate(q, position, self.base, self.rotated)
        latent, shared = state[0]
        turned, plain = (q * self.slot.dim**-0.5).split([self.rotated, self.sizes[0]], -1)
        up_k, up_v = self.up.weight.unflatten(0, (self.slot.heads, -1)).split(self.sizes, 1)
        scores = (plain @ up_k) @ latent.mT + turned @ shared.mT
        return (masked_softmax(scores, visible_in_cache(state, position)) @ latent) @ up_v.mT, state

    def _latents(self, y: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed latents and the rotated keys of all heads, (batch, 1, m, ·)."""
        latent, shared = self.down(y).unsqueeze(1).split([self.rank, self.rotated], -1)
        return rms_norm(latent, self.scale), rotate(shared, position, self.base)
