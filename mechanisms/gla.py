"""Gated linear attention (Yang et al., arXiv 2312.06635): a state whose rows decay by gates of the tokens.

S_t = diag(alpha_t) S_(t-1) + k_t v_t^T and o_t = S_t^T q_t / sqrt(dim) (equation 3), with alpha = sigmoid(y W1 W2 + b)
^(1/16), W1 of low rank (section 4.4). Each head's output goes through an RMS norm and is multiplied by swish(x W). The
output projection is the layer's.

- CS is the paper's form, computed in chunks without overflow at any gate. With rotary positions, which it does not
  have, it is ours.
- NS is ViG's (arXiv 2405.18425): the average of a forward pass and a backward pass, each with its own gates.
- NC and CC read the state after the last token of the source, in which the first tokens have decayed most.

`gate=False` leaves out norm and gate. A raster is one sequence, in raster order.

With `locality`, in NS, everything is made from u = SiLU(conv(y)) of the tokens y, with a depth-wise convolution over 3
places on each axis of the raster: q, k and v, by projections of its own, and the gates. The output is g * o + (1 - g) *
rms_norm(u), with o the normed result, without the swish gate, and g = sigmoid(u W + b): ViG's gating of locality.
Tokens that have not heads value_dim channels, as the paper's have, are projected to them for this mix.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Unsupported
from cab.ops.gated import exclusive_suffix_sums, gated_flops, gated_linear
from cab.ops.norms import rms_norm
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.raster_convolution import RasterConvolution

DAMPING = 16  # the root of the gate


class Locality(nn.Module):
    """What ViG puts around the recurrence: tokens that are convolved first, and are mixed into the result."""

    def __init__(self, slot: Any) -> None:
        super().__init__()
        self.heads, self.raster = slot.heads, slot.raster
        channels = slot.heads * slot.values
        self.conv = RasterConvolution(1, slot.tokens, 3, len(slot.raster or (1,)))
        sizes = slot.dim, slot.dim, slot.values
        self.projections = nn.ModuleList(nn.Linear(slot.tokens, slot.heads * size, bias=False) for size in sizes)
        self.own = None if slot.tokens == channels else nn.Linear(slot.tokens, channels, bias=False)
        self.gate = nn.Linear(slot.tokens, channels)
        self.scale = nn.Parameter(torch.ones(slot.values))

    def forward(self, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the convolved tokens (batch, n, width), and queries, keys and values made from them."""
        tokens = F.silu(self.conv(y.unsqueeze(1), self.raster or y.shape[1:2], mask).squeeze(1))
        q, k, v = (self._by_head(each(tokens)) for each in self.projections)
        return tokens, q, k, v

    def mix(self, normed: Tensor, tokens: Tensor) -> Tensor:
        """Mix the result of the recurrence (batch, heads, n, value_dim) and the tokens by a gate of each channel."""
        share = self._by_head(self.gate(tokens).sigmoid())
        own = self._by_head(tokens if self.own is None else self.own(tokens))
        return (share * normed + (1 - share) * rms_norm(own, self.scale, 1e-5)).to(share.dtype)

    def flops(self, n: int) -> float:
        """Count the convolution, the projections and the gate."""
        linears = [*self.projections, self.gate, *([] if self.own is None else [self.own])]
        return self.conv.flops(self.raster or (n,)) + 2.0 * n * sum(each.weight.numel() for each in linears)

    def _by_head(self, t: Tensor) -> Tensor:
        return torch.unflatten(t, 2, (self.heads, -1)).transpose(1, 2)


class Gla(Mechanism):
    """Linear attention whose state decays, each channel by gates of the tokens."""

    patterns = {"NS": "native", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"locality": False, "patterns": ["NS"]}, {"rotary": True})
    paper = "arXiv 2312.06635"
    titles = ("ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention",)
    parity = "fla (naive_recurrent_gla)"
    cost = "O((n + m) d^2)"
    reads = (("", {"locality": True}), "qkv")
    inputs = {"x": ("queries", "real", "width", {"locality": False, "gate": True}), "y": ("keys", "real", "width")}
    rasters = {"NS": (1, 2, 3)}
    accepts = {"rank": ">= 1", "chunk": "power of two"}
    checks = (
        {"rank": 3, "chunk": 8},
        {"chunk": 1},
        {"rank": 2, "chunk": 8, "gate": False},
        {"rank": 2, "chunk": 8, "locality": True, "patterns": ["NS"]},
    )

    def __init__(
        self, slot: Any, *, rank: int = 16, chunk: int = 64, gate: bool = True, locality: bool = False
    ) -> None:
        super().__init__(slot)
        if locality and slot.pattern is not Pattern.NS:
            raise Unsupported(
                f"locality=True: in NS alone, since it looks at the places around a token, not in {slot.pattern.value}"
            )
        if locality and not gate:
            raise ValueError("locality=True has a gate of its own, so gate=False has no meaning")
        self.rank, self.chunk = rank, chunk
        self.directions = 2 if slot.pattern is Pattern.NS else 1
        self.down = nn.Linear(slot.tokens, self.directions * rank, bias=False)
        self.up = nn.ModuleList(nn.Linear(rank, slot.heads * slot.dim) for _ in range(self.directions))
        self.locality = Locality(slot) if locality else None
        self.gate = None if locality or not gate else nn.Linear(slot.tokens, slot.heads * slot.values, bias=False)
        self.scale = nn.Parameter(torch.ones(slot.values)) if gate else None  # of the norm, shared by all heads

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor | None = None,
        y: Tensor,
    ) -> Tensor:
        """Run the recurrence in chunks, in one direction (CS) or both (NS); or read the last state (NC, CC)."""
        if self.locality is not None:
            y, q, k, v = self.locality(y, key_mask)
            x = y
        gates, (k, v) = self._gates(y, key_mask), self._summands(k, v, key_mask)
        if self.slot.pattern.cross:
            return self._norm_and_gate(_read(q, self._last_state(k, v, gates[0])), x, q.dtype)
        if self.directions == 1:  # popped, so that the memory of the gates is freed early
            return self._norm_and_gate(self._recurrence(q, k, v, gates.pop()), x, q.dtype)
        out = self._recurrence(q, k, v, gates[0])
        flipped = (t.flip(2) for t in (q, k, v, gates[1]))
        return self._norm_and_gate((out + self._recurrence(*flipped).flip(2)) / 2, x, q.dtype)

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        x: Tensor | None = None,
        y: Tensor,
    ) -> Tensor:
        """Run the recurrence token by token, in each direction, and read the states; then norm and gate."""
        heads, outs, local = self.slot.heads, [], self.locality
        if local is not None:
            convolved = local.conv.definition(y.unsqueeze(1), local.raster or y.shape[1:2], key_mask)
            y = F.silu(convolved).squeeze(1)
            q, k, v = ((y @ each.weight.T).unflatten(2, (heads, -1)).transpose(1, 2) for each in local.projections)
        m, low_rank = k.shape[2], (y @ self.down.weight.T).split(self.rank, -1)
        for direction, (low, up) in enumerate(zip(low_rank, self.up, strict=True)):
            alpha = torch.sigmoid(low @ up.weight.T + up.bias) ** (1 / DAMPING)
            alpha = alpha.unflatten(2, (heads, -1)).transpose(1, 2)
            if key_mask is not None:  # on a raster: a masked place neither writes nor fades
                real = key_mask[:, None, :, None]
                alpha, k = alpha.where(real, 1.0), k * real
            state, states = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None]), {}
            for j in reversed(range(m)) if direction else range(m):
                state = alpha[:, :, j, :, None] * state + k[:, :, j, :, None] * v[:, :, j, None]
                states[j] = state
            if self.slot.pattern.cross:
                outs.append(q @ state)
            else:
                outs.append(torch.cat([q[:, :, [i]] @ states[i] for i in range(m)], 2))
        out = sum(outs) / len(outs) / self.slot.dim**0.5
        if self.scale is None:
            return out
        out = out / ((out**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * self.scale
        if local is not None:
            share = torch.sigmoid(local.gate(y)).unflatten(2, (heads, -1)).transpose(1, 2)
            own = y if local.own is None else y @ local.own.weight.T
            own = own.unflatten(2, (heads, -1)).transpose(1, 2)
            own = own / ((own**2).mean(-1, keepdim=True) + 1e-5) ** 0.5 * local.scale
            return share * out + (1 - share) * own
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
        x: Tensor | None = None,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or run the recurrence over the new tokens (CS)."""
        if k is None or v is None or y is None:
            return self._norm_and_gate(_read(q, state), x, q.dtype), state
        k, v = self._summands(k, v, key_mask)
        out, state = gated_linear(_wide(q), k, v, self._gates(y, key_mask)[0], state, self.chunk)
        return self._norm_and_gate(out, x, q.dtype), state

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

    def _norm_and_gate(self, out: Tensor, x: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Scale the output, normalise each head, and gate it with x, or mix it with x."""
        out = out * self.slot.dim**-0.5
        if self.scale is None:
            return out.to(dtype)
        out = F.rms_norm(out, out.shape[-1:], self.scale.to(out.dtype), 1e-5)
        if self.locality is not None:
            return self.locality.mix(out, x)
        gate = F.silu(self.gate(x)).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
        return (out * gate).to(gate.dtype)

    def _gate_flops(self, n: int, m: int) -> float:
        slot = self.slot
        low = self.directions * m * self.rank * (slot.tokens + slot.heads * slot.dim)
        if self.locality is not None:
            return 2.0 * low + self.locality.flops(n)
        return 2.0 * (low + (0 if self.gate is None else n * self.gate.weight.numel()))


def _wide(t: Tensor) -> Tensor:
    """Widen 16-bit tensors to float32, as their sums are multiplied by exponentials of the gates."""
    return t.to(at_least_float32(t))


def _read(q: Tensor, state: Tensor) -> Tensor:
    with full_precision(q.device.type):
        return _wide(q) @ state
