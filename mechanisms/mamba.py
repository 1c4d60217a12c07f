"""Mamba, a selective state space (Gu and Dao, arXiv 2312.00752): a recurrence whose steps depend on the tokens (S6).

With u = SiLU(conv(v)), in each of heads * value_dim channels c a state h of `states` numbers:

    h_t = exp(Delta_tc A_c) h_(t-1) + Delta_tc B_t u_tc,   y_tc = C_t . h_t + D_c u_tc   (equation 2), times SiLU(x W)
    Delta = softplus(u W1 W2 + b), of low rank,   B and C linear in u,   A < 0

So it reads the values alone, and the tokens of the layer for its gate. The layer's projections are the paper's, without
its expansion: there are heads * value_dim channels.

- CS is the paper's. The scan runs in chunks (`cab.ops.linear_scan`).
- NS (ours): a pass forward and one backward, convolution included, with the same weights; their results are averaged.
- NC and CC (ours) read the state as it stands at the end of the source, with C linear in the queries' tokens x, and
  without D, as no value has the place of a query.
"""

from functools import partial
from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums
from cab.ops.linear_scan import linear_scan
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.ragged import zero_masked
from cab.ops.segment_scan import scan_segments
from cab.ops.short_convolution import ShortConvolution

Maybe = Tensor | None


class Mamba(Mechanism):
    """A state of each channel, which every token fades and adds to as it decides itself."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2312.00752"
    titles = (
        "Understanding the differences in Foundation Models: Attention, State Space Models, and Recurrent Neural "
        "Networks",
    )
    parity = "transformers (MambaMixer)"
    cost = "O((n + m) d)"
    reads = "v"
    inputs = {"x": ("queries", "real", "width")}
    accepts = {"states": ">= 1", "rank": "whole, >= 1", "conv": ">= 1", "chunk": ">= 1"}
    checks = ({"states": 3, "rank": 2, "chunk": 8}, {"states": 2, "conv": 1, "chunk": 5})
    exempt = {"heads": "B, C and Delta of a token are linear in the channels of all heads, as in the paper"}

    def __init__(self, slot: Any, *, states: int = 16, rank: int | None = None, conv: int = 4, chunk: int = 64) -> None:
        super().__init__(slot)
        channels = slot.heads * slot.values
        rank = -(-channels // 16) if rank is None else rank
        self.states, self.chunk, self.ways = states, chunk, 2 if slot.pattern is Pattern.NS else 1
        self.conv = ShortConvolution(slot.heads, slot.values, conv, bias=True)
        self.down, self.up = nn.Linear(channels, rank, bias=False), nn.Linear(rank, channels)
        self.of_b = nn.Linear(channels, states, bias=False)
        self.of_c = nn.Linear(slot.tokens if slot.pattern.cross else channels, states, bias=False)
        self.log_rate = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(slot.heads, slot.values, 1))
        self.skip = None if slot.pattern.cross else nn.Parameter(torch.ones(slot.heads, 1, slot.values))
        self.gate = nn.Linear(slot.tokens, channels, bias=False)
        with torch.no_grad():  # steps of 0.001 to 0.1, as the authors begin
            self.up.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.up.bias.uniform_(log(0.001), log(0.1)).exp_().expm1_().log_()

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor
    ) -> Tensor:
        """Scan the tokens (CS), both ways (NS), or read the state at the end of the source (NC, CC)."""
        if self.slot.pattern.cross:
            return self.step(self.init_state(None, v, key_mask), None, x=x)[0]
        v = zero_masked(v, key_mask)
        out = self._scan(self.conv(v), key_mask, self._empty(v))[0]
        if self.ways == 2:
            flipped = self.conv(v.flip(2)), None if key_mask is None else key_mask.flip(1)
            out = (out + self._scan(*flipped, self._empty(v))[0].flip(2)) / 2
        return self._gated(out, x)

    def reference(self, q: None, k: None, v: Tensor, *, x: Tensor) -> Tensor:
        """Write the weight of every pair and channel, and add up the states."""
        cross, rates = self.slot.pattern.cross, self.log_rate.exp().unsqueeze(1)  # (heads, 1, value_dim, states)

        def one_pass(v: Tensor) -> Tensor:
            m, width = v.shape[2], self.conv.width
            kernel = self.conv.kernel.reshape(v.shape[1], 1, v.shape[3], -1)
            padded, bias = F.pad(v, (0, 0, width - 1, 0)), self.conv.bias.reshape(v.shape[1], 1, -1)
            u = F.silu(sum(kernel[..., p] * padded[:, :, p : p + m] for p in range(width)) + bias)
            flat = u.transpose(1, 2).flatten(2)
            steps = F.softplus(flat @ self.down.weight.T @ self.up.weight.T + self.up.bias)
            steps = steps.reshape(1, m, *v.shape[1::2]).transpose(1, 2)
            b, c = flat @ self.of_b.weight.T, (x if cross else flat) @ self.of_c.weight.T
            # Delta_(j+1) + ... + Delta_i of each i and j <= i: (1, heads, i, j, value_dim)
            since = torch.stack([F.pad(steps[:, :, j + 1 :].cumsum(2), (0, 0, j + 1, 0)) for j in range(m)], 3)
            seen = torch.ones(m, m, dtype=torch.bool, device=v.device).tril()[..., None]
            since, seen = (since[:, :, -1:], seen[-1:]) if cross else (since, seen)
            weights = torch.zeros_like(since)
            for s in range(self.states):
                of_pair = (c[:, :, None, s] * b[:, None, :, s])[:, None, :, :, None]  # (1, 1, i, j, 1)
                weights = weights + of_pair * (-rates[..., s].unsqueeze(1) * since).exp()
            out = (weights * seen * (steps * u).unsqueeze(2)).sum(3)
            return out if self.skip is None else out + self.skip * u

        out = one_pass(v)
        if self.slot.pattern is Pattern.NS:
            out = (out + one_pass(v.flip(2)).flip(2)) / 2
        return out * F.silu(x @ self.gate.weight.T).reshape(1, -1, *out.shape[1::2]).transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the projections and the convolution, and one read of each state."""
        channels, linears = self.slot.heads * self.slot.values, (self.down, self.up, self.of_b)
        of_source = 2.0 * m * sum(each.weight.numel() for each in linears) + self.conv.flops(m)
        of_target = 2.0 * n * (self.of_c.weight.numel() + channels * self.states)
        if self.slot.pattern.cross:
            return of_source + of_target + 2.0 * n * self.gate.weight.numel() + 2.0 * m * channels * self.states
        return self.ways * (of_source + of_target) + 2.0 * n * self.gate.weight.numel()

    def init_state(self, k: None, v: Tensor, key_mask: Maybe = None) -> Any:
        """Read the source (CC), or begin with an empty state and no last tokens to convolve (CS)."""
        if not self.slot.pattern.cross:
            return self._empty(v), self.conv.init_state(v)
        u, steps, b, _ = self._system(self.conv(zero_masked(v, key_mask)), key_mask)
        with full_precision(v.device.type):
            left = exclusive_suffix_sums(steps).unsqueeze(4)
            faded = (left * self._poles(u).unsqueeze(1)).exp() * (steps * u).unsqueeze(4)
            return torch.einsum("bhmvs,bms->bhvs", faded, b.squeeze(1))

    def step(
        self, state: Any, q: None, k: None = None, v: Maybe = None, key_mask: Maybe = None, *, x: Tensor
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or scan the new tokens (CS)."""
        if v is None:
            c = self.of_c(x).to(state.dtype).unsqueeze(1)
            with full_precision(x.device.type):
                out = c @ state.mT
            return self._gated(out, x), state
        state, last = state
        convolved, last = self.conv.step(v, last, key_mask)
        out, state = self._scan(convolved, key_mask, state)
        return self._gated(out, x), (state, last)

    def _empty(self, v: Tensor) -> Tensor:
        return v.new_zeros(*v.shape[:2], v.shape[3] * self.states, dtype=at_least_float32(v))

    def _poles(self, like: Tensor) -> Tensor:
        return -self.log_rate.to(like.dtype).exp()

    def _system(self, convolved: Tensor, mask: Maybe) -> tuple[Tensor, Tensor, Tensor, Maybe]:
        """Return u and Delta, (batch, heads, m, value_dim), and B and C, (batch, 1, m, states); no C in cross."""
        u = F.silu(convolved)
        flat, dtype = u.transpose(1, 2).flatten(2), at_least_float32(u)
        raw = self.up(self.down(flat)).to(dtype)
        steps = torch.unflatten(-F.logsigmoid(-raw), -1, u.shape[1::2]).transpose(1, 2)  # softplus that compiles
        c = None if self.slot.pattern.cross else self.of_c(flat).to(dtype).unsqueeze(1)
        return u.to(dtype), zero_masked(steps, mask), self.of_b(flat).to(dtype).unsqueeze(1), c

    def _scan(self, convolved: Tensor, mask: Maybe, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return C_t h_t + D u_t of each token, and the last state, (batch, heads, value_dim * states)."""
        u, *system = self._system(convolved, mask)
        with full_precision(u.device.type):
            out, state = scan_segments(partial(self._segment, poles=self._poles(u)), (u, *system), state, self.chunk)
        return out + self.skip.to(u.dtype) * u, state

    def _segment(
        self, u: Tensor, steps: Tensor, b: Tensor, c: Tensor, state: Tensor, *, poles: Tensor
    ) -> tuple[Tensor, Tensor]:
        decay = (steps.unsqueeze(4) * poles.unsqueeze(1)).exp().flatten(3)
        addend = ((steps * u).unsqueeze(4) * b.unsqueeze(3)).flatten(3)
        states, state = linear_scan(decay, addend, state, self.chunk)
        return (torch.unflatten(states, 3, (-1, self.states)) @ c.unsqueeze(4)).squeeze(4), state

    def _gated(self, out: Tensor, x: Tensor) -> Tensor:
        gate = torch.unflatten(F.silu(self.gate(x)), -1, (self.slot.heads, -1)).transpose(1, 2)
        return (out * gate).to(gate.dtype)
