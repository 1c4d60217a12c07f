"""Gated linear attention (Yang et al., arXiv 2312.06635): a state whose rows decay by gates of the tokens.

S_t = diag(alpha_t) S_(t-1) + k_t v_t^T and o_t = S_t^T q_t / sqrt(dim) (equation 3), with alpha = sigmoid(y W1 W2 + b)
^(1/16), W1 of low rank (section 4.4). Each head's output goes through an RMS norm and is multiplied by swish(x W). The
output projection is the layer's.

- CS is the paper's form, computed in chunks without overflow at any gate.
- NS is ViG's (arXiv 2405.18425): the average of a forward pass and a backward pass, each with its own gates.
- NC and CC read the state after the last token of the source, in which the first tokens have decayed most.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums, gated_flops, gated_linear
from cab.ops.precision import at_least_float32, full_precision

DAMPING = 16  # the root of the gate


class Gla(Mechanism):
    """Linear attention whose state decays, each channel by gates of the tokens."""

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
        self.directions = 2 if slot.pattern is Pattern.NS else 1
        self.down = nn.Linear(slot.tokens, self.directions * rank, bias=False)
        self.up = nn.ModuleList(nn.Linear(rank, slot.heads * slot.dim) for _ in range(self.directions))
        self.gate = nn.Linear(slot.tokens, slot.heads * slot.values, bias=False)
        self.scale = nn.Parameter(torch.ones(slot.values))  # of the norm, shared by all heads

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
        """Run the recurrence in chunks, in one direction (CS) or both (NS); or read the last state (NC, CC)."""
        gates, (k, v) = self._gates(y, key_mask), self._summands(k, v, key_mask)
        if self.slot.pattern.cross:
            return self._norm_and_gate(_read(q, self._last_state(k, v, gates[0])), x)
        if self.directions == 1:  # popped, so that the memory of the gates is freed early
            return self._norm_and_gate(self._recurrence(q, k, v, gates.pop()), x)
        out = self._recurrence(q, k, v, gates[0])
        flipped = (t.flip(2) for t in (q, k, v, gates[1]))
        return self._norm_and_gate((out + self._recurrence(*flipped).flip(2)) / 2, x)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Tensor, y: Tensor) -> Tensor:
        """Run the recurrence token by token, in each direction, and read the states; then norm and gate."""
        heads, m, outs = self.slot.heads, k.shape[2], []
        low_rank = (y @ self.down.weight.T).split(self.rank, -1)
        for direction, (low, up) in enumerate(zip(low_rank, self.up, strict=True)):
            alpha = torch.sigmoid(low @ up.weight.T + up.bias) ** (1 / DAMPING)
            alpha = alpha.unflatten(2, (heads, -1)).transpose(1, 2)
            state, states = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None]), {}
            for j in reversed(range(m)) if direction else range(m):
                state = alpha[:, :, j, :, None] * state + k[:, :, j, :, None] * v[:, :, j, None]
                states[j] = state
            if self.slot.pattern.cross:
                outs.append(q @ state)
            else:
                outs.append(torch.cat([q[:, :, [i]] @ states[i] for i in range(m)], 2))
        out = sum(outs) / len(outs) / self.slot.dim**0.5
        out = out / ((out**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * self.scale
        gate = (x @ self.gate.weight.T).unflatten(2, (heads, -1)).transpose(1, 2)
        return out * gate * torch.sigmoid(gate)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the gates, and in each direction the state, its reading and the products inside chunks."""
        if self.slot.pattern.cross:
            return self.flops_needed(n, m)
        return self._gate_flops(n, m) + self.directions * self.slot.heads * gated_flops(
            n, self.slot.dim, self.slot.values, self.chunk
        )

    def flops_needed(self, n: int, m: int) -> float:
        """Count the gates, and in each direction one addition to the state and one read of each token."""
        return (
            self._gate_flops(n, m)
            + 2.0 * self.directions * self.slot.heads * (n + m) * self.slot.dim * self.slot.values
        )

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Return the state after the source (CC) or after no token (CS), (batch, heads, dim, value_dim)."""
        return self._last_state(*self._summands(k, v, key_mask), self._gates(y, key_mask)[0])

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
        """Read the state (CC), or run the recurrence over the new tokens (CS)."""
        if k is None or v is None or y is None:
            return self._norm_and_gate(_read(q, state), x), state
        k, v = self._summands(k, v, key_mask)
        out, state = gated_linear(_wide(q), k, v, self._gates(y, key_mask)[0], state, self.chunk)
        return self._norm_and_gate(out, x), state

    def _gates(self, y: Tensor, key_mask: Tensor | None) -> list[Tensor]:
        """Return log alpha of each direction. A masked token has alpha = 1."""
        gates = []
        for low, up in zip(self.down(y).chunk(self.directions, -1), self.up, strict=True):
            gate = up(low).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
            gate = F.logsigmoid(_wide(gate)) / DAMPING
            gates.append(gate if key_mask is None else gate.masked_fill(~key_mask[:, None, :, None], 0.0))
        return gates

    def _summands(self, k: Tensor, v: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        k, v = _wide(k), _wide(v)
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], 0.0), v

    def _recurrence(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        initial = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
        return gated_linear(_wide(q), k, v, gate, initial, self.chunk)[0]

    def _last_state(self, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        with full_precision(k.device.type):
            return (k * exclusive_suffix_sums(gate).exp()).transpose(-1, -2) @ v

    def _norm_and_gate(self, out: Tensor, x: Tensor) -> Tensor:
        """Scale the output, normalise each head, and gate it."""
        out = F.rms_norm(out * self.slot.dim**-0.5, out.shape[-1:], self.scale.to(out.dtype), 1e-5)
        gate = F.silu(self.gate(x)).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
        return (out * gate).to(gate.dtype)

    def _gate_flops(self, n: int, m: int) -> float:
        slot = self.slot
        low = self.directions * m * self.rank * (slot.tokens + slot.heads * slot.dim)
        return 2.0 * (low + n * slot.tokens * slot.heads * slot.values)


def _wide(t: Tensor) -> Tensor:
    """Widen 16-bit tensors to float32, as their sums are multiplied by exponentials of the gates."""
    return t.to(at_least_float32(t))


def _read(q: Tensor, state: Tensor) -> Tensor:
    with full_precision(q.device.type):
        return _wide(q) @ state
