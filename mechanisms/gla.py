"""Gated linear attention (Yang et al., arXiv 2312.06635): one state, whose rows fade by gates of the tokens.

S_t = diag(alpha_t) S_(t-1) + k_t v_t^T and o_t = S_t^T q_t / sqrt(dim) (equation 3), with alpha = sigmoid(y W1 W2 + b)
^(1/16), W1 of low rank (section 4.4). Each head's result goes through an RMS norm and is gated by swish(x W). The
output's projection is the layer's.

- CS is the paper's, in chunks, safe for any gate.
- NS is ViG's (arXiv 2405.18425): a pass forward and one backward with gates of its own, averaged.
- NC and CC read the state as it stands at the end of the source, so that the end is remembered best.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums, gated_flops, gated_linear
from cab.ops.precision import full_precision

DAMPING = 16  # root of the gate


class Gla(Mechanism):
    """Linear attention that forgets, each channel at a rate that the tokens choose."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2312.06635"
    cost = "O((n + m) d^2)"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    checks = ({"rank": 3, "chunk": 8}, {"chunk": 1})

    def __init__(self, slot: Any, *, rank: int = 16, chunk: int = 64) -> None:
        super().__init__(slot)
        if rank < 1:
            raise ValueError(f"rank={rank}: at least 1 is needed")
        if chunk < 1 or chunk & (chunk - 1):
            raise ValueError(f"chunk={chunk}: a power of two is needed")
        self.rank, self.chunk = rank, chunk
        self.ways = 2 if slot.pattern is Pattern.NS else 1
        self.down = nn.Linear(slot.tokens, self.ways * rank, bias=False)
        self.up = nn.ModuleList(nn.Linear(rank, slot.heads * slot.dim) for _ in range(self.ways))
        self.gate = nn.Linear(slot.tokens, slot.heads * slot.values, bias=False)
        self.scale = nn.Parameter(torch.ones(slot.values))  # of the norm, one for all heads

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Carry the state over chunks (CS), both ways (NS), or sum it once (NC, CC)."""
        gates, (k, v) = self._gates(y, key_mask), self._summands(k, v, key_mask)
        if self.slot.pattern.cross:
            return self._finished(_read(q, self._state(k, v, gates[0])), x)
        if self.ways == 1:  # popped, so that nothing keeps the gates meanwhile
            return self._finished(self._carried(q, k, v, gates.pop()), x)
        out = self._carried(q, k, v, gates[0])
        turned = (t.flip(2) for t in (q, k, v, gates[1]))
        return self._finished((out + self._carried(*turned).flip(2)) / 2, x)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor,
    ) -> Tensor:
        """Run the recurrence, token by token and way by way, and read the states."""
        batch, heads, m, dim = k.shape
        real = torch.ones(batch, m, device=k.device, dtype=torch.bool) if key_mask is None else key_mask
        low, outs = torch.split(torch.einsum("bjw,rw->bjr", y, self.down.weight), self.rank, -1), []
        for way, up in enumerate(self.up):
            alpha = torch.sigmoid(low[way] @ up.weight.T + up.bias) ** (1 / DAMPING)
            alpha = alpha.reshape(batch, m, heads, dim)
            state, rows = torch.zeros_like(k[:, :, :1].mT @ v[:, :, :1]), []
            for j in reversed(range(m)) if way else range(m):
                new = alpha[:, j, :, :, None] * state + torch.einsum("bhd,bhe->bhde", k[:, :, j], v[:, :, j])
                state = torch.where(real[:, j, None, None, None], new, state)
                rows.append(state)
            if self.slot.pattern.cross:
                outs.append(torch.einsum("bhid,bhde->bhie", q, state))
            else:
                states = torch.stack(rows[::-1] if way else rows, 2)
                outs.append(torch.einsum("bhid,bhide->bhie", q, states))
        out = sum(outs) / len(outs) / dim**0.5
        out = out / ((out**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * self.scale
        gate = torch.einsum("biw,ew->bie", x, self.gate.weight).reshape(batch, -1, heads, v.shape[3]).transpose(1, 2)
        return out * gate * torch.sigmoid(gate)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Gates, and the state and what is inside the chunks, each way."""
        if self.slot.pattern.cross:
            return self.flops_needed(n, m)
        return self._gating(n, m) + self.ways * self.slot.heads * gated_flops(
            n, self.slot.dim, self.slot.values, self.chunk
        )

    def flops_needed(self, n: int, m: int) -> float:
        """Gates; each token enters the state once and reads it once, each way."""
        return self._gating(n, m) + 2.0 * self.ways * self.slot.heads * (n + m) * self.slot.dim * self.slot.values

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Sum over the source, or over nothing: (batch, heads, dim, value_dim)."""
        return self._state(*self._summands(k, v, key_mask), self._gates(y, key_mask)[0])

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        x: Tensor,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or carry it over the new tokens too (CS)."""
        if k is None or v is None or y is None:
            return self._finished(_read(q, state), x), state
        k, v = self._summands(k, v, key_mask)
        out, state = gated_linear(_wide(q), k, v, self._gates(y, key_mask)[0], state, self.chunk)
        return self._finished(out, x), state

    def _gates(self, y: Tensor, key_mask: Tensor | None) -> list[Tensor]:
        """Return the logarithms of what is kept, each way; a masked token keeps everything."""
        gates = []
        for low, up in zip(self.down(y).chunk(self.ways, -1), self.up, strict=True):
            gate = up(low).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
            gate = F.logsigmoid(gate.to(torch.promote_types(gate.dtype, torch.float32))) / DAMPING
            gates.append(gate if key_mask is None else gate.masked_fill(~key_mask[:, None, :, None], 0.0))
        return gates

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        k, v = _wide(k), _wide(v)
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0), v

    def _carried(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        start = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
        return gated_linear(_wide(q), k, v, gate, start, self.chunk)[0]

    def _state(self, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        with full_precision(k.device.type):
            return (k * exclusive_suffix_sums(gate).exp()).transpose(-1, -2) @ v

    def _finished(self, out: Tensor, x: Tensor) -> Tensor:
        """Scale, norm each head's result, and gate it."""
        out = F.rms_norm(out * self.slot.dim**-0.5, out.shape[-1:], self.scale.to(out.dtype), 1e-5)
        gate = F.silu(self.gate(x)).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
        return (out * gate).to(gate.dtype)

    def _gating(self, n: int, m: int) -> float:
        slot = self.slot
        low = self.ways * m * self.rank * (slot.tokens + slot.heads * slot.dim)
        return 2.0 * (low + n * slot.tokens * slot.heads * slot.values)


def _wide(t: Tensor) -> Tensor:
    """16-bit tensors are summed in float32, as their gates are exponents."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _read(q: Tensor, state: Tensor) -> Tensor:
    with full_precision(q.device.type):
        return _wide(q) @ state
