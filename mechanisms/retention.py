"""Retention (RetNet, Sun et al., arXiv 2307.08621): linear attention with a fixed decay per head, rotated q and k.

    o_i = sum over j <= i of gamma^(i - j) (R_i q_i . R_j k_j) v_j / sqrt(dim)   (equation 5)

gamma is 1 - 2^(-5 - h) in head h, and R_i rotates pairs of channels by angles proportional to the position i. Each
head's result is normalised and multiplied by swish(x W) (equation 8). The output projection is the layer's.

- Frequencies: channels c and c + dim/2 are rotated by i base^(-2c/dim), as in RoPE. The authors' code, torchscale,
  rotates neighbouring channels instead, and has exponents linspace(0, 1, dim/2) in place of 2c/dim. For normal q, k
  and v of 64 tokens these exponents change a normalised result, of rms 1, by 0.45 at dim = 8 and by 0.09 at dim = 64.
- Norm: `group` is the paper's group norm, one group a head, without weights; `rms` is torchscale's. The paper's other
  normalisers, of the scores and of the decay, multiply a row by one number, which the norm cancels (but for its
  epsilon, 1e-5): they are left out, with `none` too.
- NS decays in both directions, with |i - j|.
- NC and CC read the state at the end of the source: key j of m has the factor gamma^(m - 1 - j). There is no rotation,
  because queries and keys have no common positions.
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
    """One state a head, which decays at a fixed rate, with rotary positions in queries and keys."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2307.08621"
    parity = "fla (plain functions)"
    cost = "O((n + m) d^2)"
    rotates = True
    inputs = {"x": ("queries", "real", "width", {"gate": True})}
    accepts = {"chunk": ">= 1", "norm": ("group", "rms", "none")}
    checks = ({"chunk": 4}, {"chunk": 8, "norm": "rms"}, {"chunk": 1, "norm": "none", "gate": False})

    def __init__(
        self, slot: Any, *, chunk: int = 64, base: float | None = None, norm: str = "group", gate: bool = True
    ) -> None:
        super().__init__(slot)
        if base is not None and base <= 0:
            raise ValueError(f"base={base}: the base of the rotations' frequencies is positive")
        if slot.dim % 2 and not slot.pattern.cross:
            raise Unsupported(f"retention rotates pairs of channels; heads of {slot.dim} have an odd one")
        self.chunk, self.norm = chunk, norm
        self.base = base or slot.rotary or 10000.0  # the slot's rotary base, where it has one, is the default
        self.bidirectional = slot.pattern is Pattern.NS
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
        """Sum in chunks, with the state before each chunk (CS, NS) and after it (NS); or read one state (NC, CC)."""
        if self.slot.pattern.cross:
            return self._normed_and_gated(q @ self._source_state(k, v, key_mask), x)
        position = torch.arange(q.shape[2], device=q.device)
        q, k = self._rotated(q, position), self._scaled_keys(self._rotated(k, position), key_mask)
        return self._normed_and_gated(decayed_linear(q, k, v, self._rate(q), self.chunk, self.bidirectional), x)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        """Compute equation 5, each pair of channels as one complex number, then the norm and the gate of equation 8."""
        (_, heads, n, dim), m = q.shape, k.shape[2]
        i, j = torch.arange(n, device=q.device)[:, None], torch.arange(m, device=q.device)
        if self.slot.pattern.cross:
            scores, distance = q @ k.mT, m - 1 - j
        else:
            theta = self.base ** (-torch.arange(0, dim, 2, device=q.device).double() / dim)
            rotated_q, rotated_k = (torch.complex(*t.double().chunk(2, -1)) * torch.exp(1j * i * theta) for t in (q, k))
            scores, distance = (rotated_q @ rotated_k.mH).real.to(q.dtype), (i - j).abs()
        gamma = 1 - 2.0 ** (-5 - torch.arange(heads, device=q.device, dtype=torch.float64)[:, None, None])
        weights = scores * (gamma**distance).to(q.dtype) / dim**0.5
        out = (weights.tril() if self.slot.pattern is Pattern.CS else weights) @ v
        if self.norm == "group":
            out = out - out.mean(-1, keepdim=True)
        if self.norm != "none":
            out = out / ((out**2).mean(-1, keepdim=True) + 1e-5) ** 0.5
        if x is not None:
            gate = x @ self.gate.weight.T
            out = out * (gate / (1 + (-gate).exp())).unflatten(-1, (heads, -1)).transpose(1, 2)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the gate, and the products in chunks and with the states."""
        dim, size = self.slot.dim, self.slot.values
        if self.slot.pattern.cross:
            return self._gate_flops(n) + 2.0 * self.slot.heads * (n + m) * dim * size
        return self._gate_flops(n) + self.slot.heads * decayed_linear_flops(
            n, dim, size, self.chunk, self.bidirectional
        )

    def flops_needed(self, n: int, m: int) -> float:
        """Count the gate, and one addition or read of a state for each token, or the products of all pairs if less."""
        dim, size = self.slot.dim, self.slot.values
        pairs = n * (n + 1) / 2 if self.slot.pattern is Pattern.CS else n * m
        directions = 2 if self.bidirectional else 1
        linear = directions * (n + m) * dim * size
        return self._gate_flops(n) + 2.0 * self.slot.heads * min(linear, pairs * (dim + size))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the state at the end of the source (CC), or zeros and a count of tokens (CS), in float32 at least."""
        k, v = k.to(at_least_float32(k)), v.to(at_least_float32(v))
        with full_precision(v.device.type):
            state = self._source_state(k, v, key_mask) if self.slot.pattern.cross else outer_sum(k, v)
        if self.slot.pattern.cross:
            return state
        return state, torch.zeros(k.shape[0], dtype=torch.long, device=k.device)

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or continue it over the new tokens (CS), of which the real ones of a row come first."""
        dtype = q.dtype
        if k is None or v is None:
            with full_precision(q.device.type):
                out = q.to(state.dtype) @ state
            return self._normed_and_gated(out.to(dtype), x), state
        sums, past = state
        q, k, v = (t.to(sums.dtype) for t in (q, k, v))
        inverse, rate, offset = None, self._rate(q), torch.arange(q.shape[2], device=q.device)
        count = torch.full((1, 1), q.shape[2], device=q.device)
        if key_mask is not None:
            order, inverse = real_first(key_mask)
            q, k, v = (gather_tokens(t, order) for t in (q, k, v))
            count = key_mask.sum(1, keepdim=True)
            key_mask = key_mask.gather(1, order)
        position = past.unsqueeze(1) + offset
        q, k = self._rotated(q, position), self._scaled_keys(self._rotated(k, position), key_mask)
        with full_precision(q.device.type):
            out = decayed_linear(q, k, v, rate, self.chunk) + (q * decay_factors(rate, offset + 1, q)) @ sums
            update = outer_sum(k * decay_factors(rate, (count - 1 - offset).clamp(min=0), k), v)
        sums = decay_factors(rate, count, k) * sums + update
        out = (out if inverse is None else gather_tokens(out, inverse)).to(dtype)
        return self._normed_and_gated(out, x), (sums, past + count[:, 0])

    def _rate(self, like: Tensor) -> Tensor:
        """Return -log(gamma) of the heads, in float32 at least, because they are exponents."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        return -torch.log1p(-torch.exp2(-5 - torch.arange(self.slot.heads, device=like.device, dtype=dtype)))

    def _rotated(self, t: Tensor, position: Tensor) -> Tensor:
        """Rotate the pairs of channels (c, c + dim/2) by position (tokens,) or (batch, tokens)."""
        half, dtype = t.shape[-1] // 2, torch.promote_types(t.dtype, torch.float32)
        frequency = self.base ** (-torch.arange(half, device=t.device, dtype=dtype) / half)
        angle = position.unsqueeze(-1) * frequency
        angle = angle if position.dim() == 1 else angle.unsqueeze(1)
        cos, sin = angle.cos().to(t.dtype), angle.sin().to(t.dtype)
        a, b = t[..., :half], t[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    def _scaled_keys(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        k = k * self.slot.dim**-0.5
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _source_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the state after the last real key of the source: (batch, heads, dim, value_dim)."""
        position = torch.arange(k.shape[2], device=k.device)
        last = position[-1:] if key_mask is None else (key_mask * position).amax(1, keepdim=True)
        decay = decay_factors(self._rate(k), (last - position).clamp(min=0), k)
        return outer_sum(self._scaled_keys(k, key_mask) * decay, v)

    def _normed_and_gated(self, out: Tensor, x: Tensor | None) -> Tensor:
        if self.norm == "group":
            out = F.layer_norm(out, out.shape[-1:])
        elif self.norm == "rms":
            out = F.rms_norm(out, out.shape[-1:], eps=1e-5)
        if x is None:
            return out
        return out * F.silu(self.gate(x)).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)

    def _gate_flops(self, n: int) -> float:
        return 2.0 * n * self.gate.weight.numel() if self.inputs else 0.0
