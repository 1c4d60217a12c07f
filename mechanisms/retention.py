"""Retention (RetNet, Sun et al., arXiv 2307.08621): linear attention with rotated q and k that fades by head.

o_i = sum over j <= i of gamma^(i - j) (q_i . k_j) v_j / sqrt(dim), with q and k rotated by their positions (equation
5), gamma = 1 - 2^(-5 - h) of head h. Each head's result is normed (group norm without weights, which makes the paper's
other normalisers cancel) and gated by swish(x W) (equation 8). The output's projection is the layer's.

- NS fades both ways, with |i - j|.
- NC and CC read the state as it stands at the end of the source, where gamma counts back from. There is no rotation:
  queries and keys have no common positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Unsupported
from cab.ops.decay import decay_factors, decayed_linear, decayed_linear_flops
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import outer_sum
from cab.ops.ragged import gather_tokens, real_first


class Retention(Mechanism):
    """One state a head, fading at a fixed rate, with positions in its queries and keys."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2307.08621"
    cost = "O((n + m) d^2)"
    rotates = True
    inputs = {"x": ("queries", "real", "width", {"gate": True})}
    checks = ({"chunk": 4}, {"chunk": 8, "norm": "rms"}, {"chunk": 1, "norm": "none", "gate": False})

    def __init__(
        self, slot: Any, *, chunk: int = 64, base: float | None = None, norm: str = "group", gate: bool = True
    ) -> None:
        super().__init__(slot)
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: at least 1 token is needed")
        if base is not None and base <= 0:
            raise ValueError(f"base={base}: the base of the rotations' frequencies is positive")
        if norm not in ("group", "rms", "none"):
            raise ValueError(f"norm={norm!r}: one of group, rms, none")
        if slot.dim % 2 and not slot.pattern.cross:
            raise Unsupported(f"retention rotates pairs of channels; heads of {slot.dim} have an odd one")
        self.chunk, self.norm = chunk, norm
        # of the rotations: the slot's, where it has one
        self.base = base or slot.rotary or 10000.0
        self.both = slot.pattern is Pattern.NS
        if gate:
            self.gate = nn.Linear(slot.tokens, slot.heads * slot.values, bias=False)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Sum in blocks, with one state for all that is far (CS), one for each side (NS), or one (NC, CC)."""
        if self.slot.pattern.cross:
            return self._finished(q @ self._state(k, v, key_mask), x)
        place = torch.arange(q.shape[2], device=q.device)
        q, k = self._rotated(q, place), self._summand(self._rotated(k, place), key_mask)
        return self._finished(decayed_linear(q, k, v, self._rate(q), self.chunk, self.both), x)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Write every weight, with its decay and rotation, head by head; then norm and gate."""
        n, m, half = q.shape[2], k.shape[2], self.slot.dim // 2
        i, j = (torch.arange(length, device=q.device, dtype=torch.float64) for length in (n, m))
        real = torch.ones(q.shape[0], m, device=q.device) if key_mask is None else key_mask.double()
        if not self.slot.pattern.cross:  # the product of two rotated pairs depends on the distance alone
            turn = (i[:, None, None] - j[:, None]) * self.base ** (-torch.arange(half, device=q.device).double() / half)
            (qa, qb), (ka, kb) = ((t[..., :half], t[..., half:]) for t in (q, k))
            products = torch.einsum("bhif,bhjf,ijf->bhij", qa, ka, turn.cos().to(q.dtype))
            products = products + torch.einsum("bhif,bhjf,ijf->bhij", qb, kb, turn.cos().to(q.dtype))
            products = products + torch.einsum("bhif,bhjf,ijf->bhij", qa, kb, turn.sin().to(q.dtype))
            products = products - torch.einsum("bhif,bhjf,ijf->bhij", qb, ka, turn.sin().to(q.dtype))
        else:
            products = torch.einsum("bhid,bhjd->bhij", q, k)
        out = []
        for head in range(q.shape[1]):
            gamma = 1 - 2.0 ** (-5 - head)
            if self.slot.pattern.cross:
                last = (real * (j + 1)).amax(1, keepdim=True) - 1
                decay = (gamma ** (last - j) * real)[:, None]
            else:
                decay = gamma ** (i[:, None] - j).abs() * real[:, None]
                decay = decay if self.slot.pattern is Pattern.NS else decay.tril()
            out.append((products[:, head] * decay.to(q.dtype) / self.slot.dim**0.5) @ v[:, head])
        result = torch.stack(out, 1)
        if self.norm != "none":
            result = result - result.mean(-1, keepdim=True) if self.norm == "group" else result
            result = result / ((result**2).mean(-1, keepdim=True) + 1e-5) ** 0.5
        if self.inputs:
            gate = torch.einsum("biw,ow->bio", x, self.gate.weight)
            gate = (gate * torch.sigmoid(gate)).reshape(q.shape[0], n, q.shape[1], -1).transpose(1, 2)
            result = result * gate
        return result

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The gate, and sums in blocks with their states."""
        dim, size = self.slot.dim, self.slot.values
        if self.slot.pattern.cross:
            return self._gating(n) + 2.0 * self.slot.heads * (n + m) * dim * size
        return self._gating(n) + self.slot.heads * decayed_linear_flops(n, dim, size, self.chunk, self.both)

    def flops_needed(self, n: int, m: int) -> float:
        """The gate; each key enters the state once and each query reads it once, by left products if they are less."""
        dim, size = self.slot.dim, self.slot.values
        pairs = n * (n + 1) / 2 if self.slot.pattern is Pattern.CS else n * m
        ways = 2 if self.both else 1
        return self._gating(n) + 2.0 * self.slot.heads * min(ways * (n + m) * dim * size, pairs * (dim + size))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Sum over the source (CC), in float32 at least, to grow and fade; or nothing, and how many tokens came."""
        k, v = k.to(at_least_float32(k)), v.to(at_least_float32(v))
        with full_precision(v.device.type):
            sums = self._state(k, v, key_mask) if self.slot.pattern.cross else outer_sum(k, v)
        if self.slot.pattern.cross:
            return sums
        return sums, torch.zeros(k.shape[0], dtype=torch.long, device=k.device)

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the state (CC); or let it fade over the new tokens, the real ones of a row first (CS)."""
        dtype = q.dtype
        if k is None or v is None:
            with full_precision(q.device.type):
                out = q.to(state.dtype) @ state
            return self._finished(out.to(dtype), x), state
        sums, past = state
        q, k, v = (t.to(sums.dtype) for t in (q, k, v))
        back, rate, place = None, self._rate(q), torch.arange(q.shape[2], device=q.device)
        count = torch.full((1, 1), q.shape[2], device=q.device)
        if key_mask is not None:
            order, back = real_first(key_mask)
            q, k, v = (gather_tokens(t, order) for t in (q, k, v))
            count = key_mask.sum(1, keepdim=True)
            key_mask = key_mask.gather(1, order)
        places = past.unsqueeze(1) + place
        q, k = self._rotated(q, places), self._summand(self._rotated(k, places), key_mask)
        with full_precision(q.device.type):
            out = decayed_linear(q, k, v, rate, self.chunk) + (q * decay_factors(rate, place + 1, q)) @ sums
            gained = outer_sum(k * decay_factors(rate, (count - 1 - place).clamp(min=0), k), v)
        sums = decay_factors(rate, count, k) * sums + gained
        out = (out if back is None else gather_tokens(out, back)).to(dtype)
        return self._finished(out, x), (sums, past + count[:, 0])

    def _rate(self, like: Tensor) -> Tensor:
        """Return -log(gamma) of the heads, in float32 at least: they are exponents."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return -torch.log1p(-torch.exp2(-5 - torch.arange(self.slot.heads, device=like.device, dtype=dtype)))

    def _rotated(self, t: Tensor, places: Tensor) -> Tensor:
        """Rotate the pairs (i, i + dim/2) by place: (tokens,), or (batch, tokens)."""
        half, dtype = t.shape[-1] // 2, torch.promote_types(t.dtype, torch.float32)
        frequency = self.base ** (-torch.arange(half, device=t.device, dtype=dtype) / half)
        angle = places.unsqueeze(-1) * frequency
        angle = angle if places.dim() == 1 else angle.unsqueeze(1)
        cos, sin = angle.cos().to(t.dtype), angle.sin().to(t.dtype)
        a, b = t[..., :half], t[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def _summand(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        k = k * self.slot.dim**-0.5
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _state(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Sum over the source, faded to its end: (batch, heads, dim, value_dim)."""
        place = torch.arange(k.shape[2], device=k.device)
        last = place[-1:] if key_mask is None else (key_mask * place).amax(1, keepdim=True)
        share = decay_factors(self._rate(k), (last - place).clamp(min=0), k)
        return outer_sum(self._summand(k, key_mask) * share, v)

    def _finished(self, out: Tensor, x: Tensor | None) -> Tensor:
        """Norm each head's result, and gate it."""
        if self.norm == "group":
            out = F.layer_norm(out, out.shape[-1:])
        elif self.norm == "rms":
            out = F.rms_norm(out, out.shape[-1:], eps=1e-5)
        if x is None:
            return out
        return out * F.silu(self.gate(x)).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)

    def _gating(self, n: int) -> float:
        return 2.0 * n * self.gate.weight.numel() if self.inputs else 0.0
