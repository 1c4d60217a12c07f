"""Lightning attention (Qin et al., arXiv 2401.04658 and 2405.17381): linear attention that fades with distance.

o_i = sum over j <= i of exp(-s (i - j)) (q_i . k_j) v_j, with q, k and v through SiLU, no scale and no normaliser; then
an RMS norm over the whole token and a gate sigmoid(x W), as MiniMax-01 (arXiv 2501.08313) has it. The rate of head h
of H in layer l of L is s = 2^(-8 (h + 1) / H) (1 - l / (L - 1) + 1e-5), as in TransNormerLLM. The output's projection
is the layer's.

Lightning-2 (`eager`) sums in blocks, with one state for all earlier ones. Lightning-1 (`lightning1`) is the same
function by left products, block of queries by block: quadratic in time, and never the whole matrix at once.

- NS fades both ways, with |i - j|.
- NC and CC read the state as it stands at the end of the source, where the rate counts back from; direction=both
  averages it with the state of a pass backward, so that the beginning is not forgotten.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.decay import decay_factors, decayed_linear, decayed_linear_flops
from cab.ops.precision import at_least_float32, full_precision, product_dtype
from cab.ops.prefix import outer_sum
from cab.ops.ragged import gather_tokens, real_first


class Lightning(Mechanism):
    """One state a head, fading at a fixed rate; its result is normed and gated."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2401.04658"
    cost = "O((n + m) d^2)"
    inputs = {"x": ("queries", "real", "width", {"gate": ("full", "low")})}
    checks = (
        {"chunk": 4},
        {"chunk": 8, "norm": "head", "gate": "low", "direction": "both"},
        {"chunk": 1, "norm": "none", "gate": "none"},
    )
    exempt = {"heads": "its norm runs over the whole token, all heads (arXiv 2405.17381); norm=head keeps them apart"}

    def __init__(
        self, slot: Any, *, chunk: int = 64, norm: str = "token", gate: str = "full", direction: str = "forward"
    ) -> None:
        super().__init__(slot)
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: at least 1 token is needed")
        for name, value, known in (
            ("norm", norm, ("token", "head", "none")),
            ("gate", gate, ("full", "low", "none")),
            ("direction", direction, ("forward", "both")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r}: one of {', '.join(known)}")
        self.chunk, self.norm, self.direction = chunk, norm, direction
        self.both = slot.pattern is Pattern.NS
        size = slot.heads * slot.values
        if norm != "none":
            self.scale = nn.Parameter(torch.ones(size if norm == "token" else slot.values))
        if gate == "full":
            self.gate = nn.Sequential(nn.Linear(slot.tokens, size, bias=False))
        elif gate == "low":  # through as many channels as a head has, as in TransNormerLLM
            self.gate = nn.Sequential(
                nn.Linear(slot.tokens, slot.values, bias=False), nn.Linear(slot.values, size, bias=False)
            )

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
        (q, k, v), products, dtype = _in_range(q, k, v)
        with products:
            if self.slot.pattern.cross:
                k, v = self._summands(k, v, key_mask)
                out = _activated(q) @ outer_sum(k * self._share(k, key_mask), v)
            else:
                k = _unmasked(k, key_mask)
                out = decayed_linear(q, k, v, self._rate(q), self.chunk, self.both, token_map=_activated)
        return self._finished(out, x, dtype)

    def attend_lightning1(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Write the weights of one block of queries at a time, up to its last key in CS."""
        (q, k, v), products, dtype = _in_range(q, k, v)
        q, (k, v) = _activated(q), self._summands(k, v, key_mask)
        n, m, rate = q.shape[2], k.shape[2], self._rate(q)
        if self.slot.pattern.cross:
            k = k * self._share(k, key_mask)
        rows, j = [], torch.arange(m, device=q.device)
        for start in range(0, n, self.chunk):
            block = q[:, :, start : start + self.chunk]
            stop = start + block.shape[2] if self.slot.pattern is Pattern.CS else m
            with products:
                weights = block @ k[:, :, :stop].transpose(-1, -2)
            if not self.slot.pattern.cross:
                ahead = torch.arange(start, start + block.shape[2], device=q.device).unsqueeze(1) - j[:stop]
                fade = (-rate.view(-1, 1, 1) * ahead.abs()).exp()
                weights = weights * (fade if self.both else fade * (ahead >= 0)).to(weights.dtype)
            with products:
                rows.append(weights @ v[:, :, :stop])
        return self._finished(torch.cat(rows, 2), x, dtype)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Tensor:
        """Write every weight with its decay, head by head, then norm and gate."""
        q, k, v = (t * torch.sigmoid(t) for t in (q, k, v))
        n, m, heads, layers = q.shape[2], k.shape[2], q.shape[1], self.slot.layers
        real = torch.ones(q.shape[0], m, device=q.device) if key_mask is None else key_mask.double()
        j, out = torch.arange(m, device=q.device, dtype=torch.float64), []
        for head in range(heads):
            slope = 2.0 ** (-8 * (head + 1) / heads) * (1 - self.slot.layer / max(layers - 1, 1) + 1e-5)
            if self.slot.pattern.cross:
                last = (real * (j + 1)).amax(1, keepdim=True) - 1
                decay = torch.exp(-slope * (last - j))
                if self.direction == "both":
                    decay = (decay + torch.exp(-slope * j)) / 2
                decay = (decay * real)[:, None].expand(-1, n, -1)
            else:
                decay = torch.exp(-slope * (torch.arange(n, device=q.device)[:, None] - j).abs()) * real[:, None]
                decay = decay if self.slot.pattern is Pattern.NS else decay.tril()
            out.append((torch.einsum("bid,bjd->bij", q[:, head], k[:, head]) * decay.to(q.dtype)) @ v[:, head])
        result = torch.stack(out, 2)  # (batch, n, heads, value_dim)
        if self.norm != "none":
            mean = (result**2).mean((2, 3) if self.norm == "token" else 3, keepdim=True)
            scale = self.scale.reshape(heads, -1) if self.norm == "token" else self.scale
            result = result / (mean + 1e-6) ** 0.5 * scale
        if self.inputs:
            for linear in self.gate:
                x = torch.einsum("biw,ow->bio", x, linear.weight)
            result = result * torch.sigmoid(x).reshape(result.shape)
        return result.transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The gate, and sums in blocks with their states; or by left products."""
        dim, size = self.slot.dim, self.slot.values
        if backend == "lightning1":
            stops = [min(start + self.chunk, n) for start in range(0, n, self.chunk)]
            causal = self.slot.pattern is Pattern.CS
            pairs = sum((stop - i * self.chunk) * (stop if causal else m) for i, stop in enumerate(stops))
            return self._gating(n) + 2.0 * self.slot.heads * pairs * (dim + size)
        if self.slot.pattern.cross:
            return self._gating(n) + 2.0 * self.slot.heads * (n + m) * dim * size
        return self._gating(n) + self.slot.heads * decayed_linear_flops(n, dim, size, self.chunk, self.both)

    def flops_needed(self, n: int, m: int) -> float:
        """The gate; each key enters the state once and each query reads it once, by left products if they are less."""
        dim, size = self.slot.dim, self.slot.values
        pairs = n * (n + 1) / 2 if self.slot.pattern is Pattern.CS else n * m
        ways = 2 if self.both else 1
        mixing = 2.0 * min(ways * (n + m) * dim * size, pairs * (dim + size))
        return self._gating(n) + self.slot.heads * mixing

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Sum over the source, or over nothing: (batch, heads, dim, value_dim), in float32 at least."""
        k, v = (t.to(at_least_float32(t)) for t in self._summands(k, v, key_mask))
        with full_precision(v.device.type):
            return outer_sum(k * self._share(k, key_mask) if self.slot.pattern.cross else k, v)

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
        dtype, q = q.dtype, F.silu(q).to(state.dtype)
        if k is None or v is None:
            with full_precision(q.device.type):
                out = q @ state
            return self._finished(out, x, dtype), state
        k, v = (t.to(state.dtype) for t in self._summands(k, v, key_mask))
        back, rate, place = None, self._rate(q), torch.arange(q.shape[2], device=q.device)
        count = torch.full((1, 1), q.shape[2], device=q.device)
        if key_mask is not None:
            order, back = real_first(key_mask)
            q, k, v = (gather_tokens(t, order) for t in (q, k, v))
            count = key_mask.sum(1, keepdim=True)
        with full_precision(q.device.type):
            out = decayed_linear(q, k, v, rate, self.chunk) + (q * decay_factors(rate, place + 1, q)) @ state
            gained = outer_sum(k * decay_factors(rate, (count - 1 - place).clamp(min=0), k), v)
        state = decay_factors(rate, count, k) * state + gained
        return self._finished(out if back is None else gather_tokens(out, back), x, dtype), state

    def _rate(self, like: Tensor) -> Tensor:
        """Return the heads' rates, in float32 at least: they are exponents."""
        heads, dtype = self.slot.heads, torch.promote_types(like.dtype, torch.float32)
        depth = 1 - self.slot.layer / max(self.slot.layers - 1, 1) + 1e-5
        return depth * torch.exp2(torch.arange(1, heads + 1, device=like.device, dtype=dtype) * (-8 / heads))

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return _activated(_unmasked(k, key_mask)), _activated(v)

    def _share(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return what is left of each key at the end of the source; with both directions, also at its beginning."""
        place = torch.arange(k.shape[2], device=k.device)
        last = place[-1:] if key_mask is None else (key_mask * place).amax(1, keepdim=True)
        share = decay_factors(self._rate(k), (last - place).clamp(min=0), k)
        return share if self.direction == "forward" else (share + decay_factors(self._rate(k), place, k)) / 2

    def _finished(self, out: Tensor, x: Tensor | None, dtype: torch.dtype | None) -> Tensor:
        """Norm over the token or the head, in what the sums are of, and gate."""
        tokens = out.transpose(1, 2)
        del out  # the copy that a norm over the token makes takes its room
        if self.norm == "token":
            tokens = tokens.flatten(2)
            tokens = F.rms_norm(tokens, self.scale.shape, self.scale.to(tokens.dtype), 1e-6).unflatten(
                2, (self.slot.heads, -1)
            )
        elif self.norm == "head":
            tokens = F.rms_norm(tokens, self.scale.shape, self.scale.to(tokens.dtype), 1e-6)
        tokens = tokens if dtype is None else tokens.to(dtype)
        if x is not None:
            tokens = tokens * torch.sigmoid(self.gate(x)).unflatten(-1, (self.slot.heads, -1))
        return tokens.transpose(1, 2)

    def _gating(self, n: int) -> float:
        return sum(2.0 * n * weight.numel() for weight in self.gate.parameters()) if self.inputs else 0.0


def _unmasked(k: Tensor, key_mask: Tensor | None) -> Tensor:
    """Set masked keys to zero, which SiLU leaves there."""
    return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0)


def _in_range(*tensors: Tensor) -> tuple[list[Tensor], AbstractContextManager[Any, Any], torch.dtype | None]:
    """Widen tensors whose products would be of float16; return what keeps them so, and to what the result returns.

    The sums have no normaliser: float16 ends long before the norm takes their scale out again.
    """
    if torch.float16 not in {product_dtype(t) for t in tensors}:
        return list(tensors), nullcontext(), None
    return [t.float() for t in tensors], full_precision(tensors[0].device.type), tensors[0].dtype


def _activated(t: Tensor) -> Tensor:
    return F.silu(t).contiguous()  # at once, not again in each product of chunks
