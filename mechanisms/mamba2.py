"""Mamba-2 (Dao and Gu, arXiv 2405.21060): a state that fades by one gate of each token and head (SSD).

After a short convolution and SiLU, with q for the paper's C, k for B and v for X, per head

    S_t = exp(Delta_t A) S_(t-1) + Delta_t k_t v_t^T,   o_t = S_t^T q_t + D v_t,   A < 0                   (equation 1)
    Delta = softplus(W y + b)

and an RMS norm of each head's o * swish(x W). So a head is linear attention without a normaliser, with a scalar gate.
Every head has its own q and k, which the paper calls as many groups as heads. The layer's projections are the paper's,
without its expansion: the channels are heads * value_dim. `conv=0` leaves out convolution and SiLU, and `gate=False`
norm and gate; what remains is the structured state-space duality itself.

- CS is the paper's, in chunks (`cab.ops.gated`). With rotary positions, which turn q and k before the convolution, it
  is ours.
- NS (ours): a pass forward and one backward, convolutions included, with the same weights; their results are averaged.
- NC and CC (ours) read the state as it stands at the end of the source, so that the end is remembered best. They have
  no D, as no value has the place of a query.
"""

from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums, scalar_gated_flops, scalar_gated_linear
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import outer_sum
from cab.ops.ragged import zero_masked
from cab.ops.short_convolution import ShortConvolution

Maybe = Tensor | None


class Mamba2(Mechanism):
    """Linear attention without a normaliser, whose state fades by a gate of each token."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"rotary": True},)
    paper = "arXiv 2405.21060"
    titles = (
        "Understanding the differences in Foundation Models: Attention, State Space Models, and Recurrent Neural "
        "Networks",
    )
    parity = "transformers (Mamba2Mixer)"
    cost = "O((n + m) d^2)"
    inputs = {"x": ("queries", "real", "width", {"gate": True}), "y": ("keys", "real", "width")}
    accepts = {"conv": ">= 0", "chunk": ">= 1"}
    checks = ({"chunk": 8}, {"chunk": 5, "conv": 1}, {"chunk": 8, "conv": 0, "gate": False})
    limits = (  # at steps of 1 and one rate, gated linear attention whose gates are all exp(-rate)
        {
            "params": {"conv": 0, "gate": False},
            "weights": {
                "of_step.weight": 0.0,
                "shift": 0.5413248546129181,
                "log_rate": -3.1391016428214455,
                "skip": 0.0,
            },
            "equals": "gla",
            "equals_params": {"gate": False},
            "equals_weights": {"up.0.weight": 0.0, "up.0.bias": 0.0, "up.1.weight": 0.0, "up.1.bias": 0.0},
            "scales": {"q": "sqrt(dim)"},
        },
    )

    def __init__(self, slot: Any, *, conv: int = 4, gate: bool = True, chunk: int = 64) -> None:
        super().__init__(slot)
        self.chunk, self.ways = chunk, 2 if slot.pattern is Pattern.NS else 1
        sizes = (slot.dim, slot.dim, slot.values) if conv else ()
        self.convs = nn.ModuleList(ShortConvolution(slot.heads, size, conv, bias=True) for size in sizes)
        self.of_step = nn.Linear(slot.tokens, slot.heads, bias=False)
        # rates of 1 to 16, times steps of 0.001 to 0.1, as the authors begin
        self.log_rate = nn.Parameter(torch.empty(slot.heads).uniform_(1, 16).log())
        self.shift = nn.Parameter(torch.empty(slot.heads).uniform_(log(0.001), log(0.1)).exp().expm1().log())
        self.skip = None if slot.pattern.cross else nn.Parameter(torch.ones(slot.heads))
        self.gate = nn.Linear(slot.tokens, slot.heads * slot.values, bias=False) if gate else None
        self.scale = nn.Parameter(torch.ones(slot.heads, 1, slot.values)) if gate else None

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Maybe = None,
        query_mask: Maybe = None,
        *,
        x: Maybe = None,
        y: Tensor,
    ) -> Tensor:
        """Carry the state over chunks (CS), both ways (NS), or read it at the end of the source (NC, CC)."""
        if self.slot.pattern.cross:
            return self.step(self.init_state(k, v, key_mask, y=y), q, x=x)[0]
        tokens = [*(zero_masked(t, key_mask) for t in (q, k, v)), self._steps(y, key_mask)]
        out = self._pass(*tokens)
        if self.ways == 2:
            out = (out + self._pass(*(t.flip(2) for t in tokens)).flip(2)) / 2
        return self._gated_norm(out, x, v.dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Maybe = None, y: Tensor) -> Tensor:
        """Write the weight of every pair: Delta_j exp(A (Delta_(j+1) + ... + Delta_i)) q_i . k_j."""
        steps, cross = F.softplus(y @ self.of_step.weight.T + self.shift).mT.unsqueeze(3), self.slot.pattern.cross

        def convolved(t: Tensor, conv: ShortConvolution) -> Tensor:
            kernel, padded = conv.kernel.reshape(t.shape[1], 1, t.shape[3], -1), F.pad(t, (0, 0, conv.width - 1, 0))
            taps = (kernel[..., p] * padded[:, :, p : p + t.shape[2]] for p in range(conv.width))
            return F.silu(sum(taps) + conv.bias.reshape(t.shape[1], 1, -1))

        def one_pass(q: Tensor, k: Tensor, v: Tensor, steps: Tensor) -> Tensor:
            q, k, v = map(convolved, (q, k, v), self.convs) if self.convs else (q, k, v)
            m, gates = k.shape[2], -self.log_rate.exp()[:, None, None] * steps
            past = gates.expand(-1, -1, -1, m).tril(-1).cumsum(2)  # (1, heads, i, j): from j + 1 to i
            fade = past[:, :, -1:].exp() if cross else past.exp().tril()
            out = (q @ k.mT * fade * steps.mT) @ v
            return out if self.skip is None else out + self.skip[:, None, None] * v

        out = one_pass(q, k, v, steps)
        if self.slot.pattern is Pattern.NS:
            out = (out + one_pass(*(t.flip(2) for t in (q, k, v, steps))).flip(2)) / 2
        if x is None:
            return out
        out = out * F.silu(x @ self.gate.weight.T).reshape(1, -1, *out.shape[1::2]).transpose(1, 2)
        return out / ((out**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * self.scale

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count gates and convolutions, the chunks each way, and in cross patterns writing and reading the state."""
        dim, size = self.slot.dim, self.slot.values
        if self.slot.pattern.cross:
            return self._around(n, m) + 2.0 * self.slot.heads * (n + m) * dim * size
        return self._around(n, m) + self.ways * self.slot.heads * scalar_gated_flops(n, dim, size, self.chunk)

    def flops_needed(self, n: int, m: int) -> float:
        """Count gates and convolutions, and each way one addition to the state and one read of each token."""
        return self._around(n, m) + 2.0 * self.ways * self.slot.heads * (n + m) * self.slot.dim * self.slot.values

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None, *, y: Tensor) -> Any:
        """Read the source (CC), or begin with an empty state (CS); with no last tokens to convolve."""
        if not self.slot.pattern.cross:
            return _empty(k, v), [conv.init_state(t) for conv, t in zip(self.convs, (k, k, v), strict=False)]
        k, v = (zero_masked(t, key_mask) for t in (k, v))
        if self.convs:
            k, v = (F.silu(conv(t)) for conv, t in zip(self.convs[1:], (k, v), strict=True))
        steps = self._steps(y, key_mask)
        with full_precision(k.device.type):
            faded = k * steps * exclusive_suffix_sums(self._decays(steps)).exp()
            return outer_sum(faded, v.to(faded.dtype)), [conv.init_state(k) for conv in self.convs[:1]]

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Maybe = None,
        v: Maybe = None,
        key_mask: Maybe = None,
        *,
        x: Maybe = None,
        y: Maybe = None,
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or carry it over the new tokens (CS)."""
        state, last = state
        tokens = (q,) if y is None else (q, k, v)
        if self.convs:
            steps = [conv.step(t, before, key_mask) for conv, t, before in zip(self.convs, tokens, last, strict=False)]
            tokens, last = zip(*((F.silu(t), before) for t, before in steps), strict=True)
        if y is None:
            with full_precision(q.device.type):
                out = tokens[0].to(state.dtype) @ state
        else:
            out, state = self._carry(*tokens, self._steps(y, key_mask), state)
        return self._gated_norm(out, x, q.dtype), (state, last)

    def _steps(self, y: Tensor, mask: Maybe) -> Tensor:
        """Return Delta, (batch, heads, m, 1), in float32 at least. A masked token has 0, and leaves the state."""
        raw = self.of_step(y)
        steps = -F.logsigmoid(-raw.to(at_least_float32(raw)) - self.shift)  # softplus, whose gradient compiles
        return zero_masked(steps.transpose(1, 2).unsqueeze(-1), mask)

    def _decays(self, steps: Tensor) -> Tensor:
        return -self.log_rate.to(steps.dtype).exp()[:, None, None] * steps

    def _pass(self, q: Tensor, k: Tensor, v: Tensor, steps: Tensor) -> Tensor:
        if self.convs:
            q, k, v = (F.silu(conv(t)) for conv, t in zip(self.convs, (q, k, v), strict=True))
        return self._carry(q, k, v, steps, _empty(k, v))[0]

    def _carry(self, q: Tensor, k: Tensor, v: Tensor, steps: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (t.to(steps.dtype) for t in (q, k, v))
        out, state = scalar_gated_linear(q, k * steps, v, self._decays(steps), state, self.chunk)
        return out + self.skip.to(out.dtype)[:, None, None] * v, state

    def _gated_norm(self, out: Tensor, x: Maybe, dtype: torch.dtype) -> Tensor:
        if x is None:
            return out.to(dtype)
        gate = torch.unflatten(F.silu(self.gate(x)), -1, (self.slot.heads, -1)).transpose(1, 2)
        return (F.rms_norm(out * gate, out.shape[-1:], eps=1e-5) * self.scale).to(gate.dtype)

    def _around(self, n: int, m: int) -> float:
        convs = sum(conv.flops(length) for conv, length in zip(self.convs, (n, m, m), strict=False))
        gate = 0 if self.gate is None else n * self.gate.weight.numel()
        return 2.0 * (m * self.of_step.weight.numel() + gate) + self.ways * convs


def _empty(k: Tensor, v: Tensor) -> Tensor:
    return k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=at_least_float32(k))
