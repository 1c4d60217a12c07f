"""RWKV-6's time mixing (Eagle, Peng et al., arXiv 2404.05892): a state whose rows decay as the tokens say.

With x'_t = the token before x_t, five inputs are mixed as the token itself says, each with a mu
and a low-rank map of its own, and projected (c to a low rank):

    r, g, k, v, c = W (x + (x' - x) * (mu + tanh(z A) B)),   z = x + (x' - x) * mu_0,   d = tanh(c) B_d + lambda
    S_t = diag(w_t) S_(t-1) + k_t v_t^T,   w = exp(-exp(d)),   o_t = (S_(t-1) + diag(u) k_t v_t^T)^T r_t

and a layer norm of each head's o, times SiLU(g). So a head is gated linear attention whose query reads the state before
its token, which it weighs by u. The output's projection is the layer's.

- CS is the paper's, in chunks (`cab.ops.gated`).
- NS (ours): the whole forward and backward, token shift included, with the same weights; both are averaged.
- NC and CC (ours): r and g are of the target, k, v and w of the source, whose last state is read, without u.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums, gated_flops, gated_linear
from cab.ops.norms import HeadNorm
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import outer_sum
from cab.ops.ragged import zero_masked
from cab.ops.token_shift import token_shift

Maybe = Tensor | None


class TokenMix(nn.Module):
    """Mix the token before into each token, in `count` ways, by shares that depend on the token."""

    def __init__(self, shares: Tensor, rank: int) -> None:
        super().__init__()
        self.shares = nn.Parameter(shares)  # (count, width)
        self.down = nn.Linear(shares.shape[1], len(shares) * rank, bias=False)
        self.up = nn.Parameter(torch.empty(len(shares), rank, shares.shape[1]).uniform_(-0.01, 0.01))
        nn.init.uniform_(self.down.weight, -0.01, 0.01)

    def forward(self, x: Tensor, before: Tensor, base: Tensor) -> tuple[Tensor, ...]:
        """Return `count` tensors (batch, n, width)."""
        step = before - x
        low = torch.unflatten(torch.tanh(self.down(x + step * base.to(x.dtype))), 2, self.up.shape[:2])
        shares = self.shares.unsqueeze(1) + low.transpose(1, 2) @ self.up  # (batch, count, n, width)
        return torch.unbind(x.unsqueeze(1) + step.unsqueeze(1) * shares.to(x.dtype), 1)

    def flops(self, n: int) -> float:
        """Count the FLOPs for n tokens of one sequence."""
        return 2.0 * n * (self.down.weight.numel() + self.up.numel())


class Rwkv6(Mechanism):
    """Linear attention whose state decays by gates of the tokens, read before the token's own key is added."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2404.05892"
    parity = "fla (naive_recurrent_rwkv6)"
    cost = "O((n + m) d^2)"
    reads = ""
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    accepts = {"mix_rank": ">= 1", "decay_rank": ">= 1", "chunk": "power of two"}
    checks = ({"mix_rank": 3, "decay_rank": 4, "chunk": 8}, {"mix_rank": 1, "decay_rank": 2, "chunk": 1})

    def __init__(self, slot: Any, *, mix_rank: int = 32, decay_rank: int = 64, chunk: int = 64) -> None:
        super().__init__(slot)
        self.chunk, width, keys = chunk, slot.tokens, slot.heads * slot.dim
        depth, rest = slot.layer / max(slot.layers - 1, 1), 1 - slot.layer / slot.layers
        share = (torch.arange(width) / width) ** rest
        self.base = nn.Parameter(1 - share)
        self.of_target = TokenMix(torch.stack([1 - share**0.5] * 2), mix_rank)  # of r and g
        self.of_source = TokenMix(torch.stack([1 - share, 1 - share - 0.3 * depth, 1 - share]), mix_rank)  # of k, v, w
        sizes = {"r": keys, "g": slot.heads * slot.values, "k": keys, "v": slot.heads * slot.values}
        self.projections = nn.ModuleDict({name: nn.Linear(width, size, bias=False) for name, size in sizes.items()})
        self.down, self.up = nn.Linear(width, decay_rank, bias=False), nn.Linear(decay_rank, keys)
        nn.init.uniform_(self.up.weight, -0.01, 0.01)
        place = torch.arange(keys) / max(keys - 1, 1)
        with torch.no_grad():
            self.up.bias.copy_(-6 + 5 * place ** (0.7 + 1.3 * depth))
        bonus = depth * (1 - place) + ((torch.arange(keys) + 1) % 3 - 1) / 10
        self.bonus = None if slot.pattern.cross else nn.Parameter(torch.unflatten(bonus, 0, (slot.heads, 1, -1)))
        self.norm = HeadNorm(slot.heads, slot.values)

    def attend(
        self, q: None, k: None, v: None, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Carry the state over chunks (CS), both ways (NS), or read it at the end of the source (NC, CC)."""
        out = self._mix(x, y, query_mask, key_mask)
        if self.slot.pattern is not Pattern.NS:
            return out
        mask = None if key_mask is None else key_mask.flip(1)
        return (out + self._mix(x.flip(1), y.flip(1), mask, mask).flip(2)) / 2

    def reference(self, q: None, k: None, v: None, *, x: Tensor, y: Tensor) -> Tensor:
        """Run the recurrence, token by token, each way."""

        def mixed(t: Tensor, mix: TokenMix) -> list[Tensor]:
            before = F.pad(t, (0, 0, 1, 0))[:, :-1]
            low = torch.tanh((t + (before - t) * self.base) @ mix.down.weight.T).chunk(len(mix.shares), 2)
            shares = (share + part @ up for share, part, up in zip(mix.shares, low, mix.up, strict=True))
            return [t + (before - t) * share for share in shares]

        def one_way(x: Tensor, y: Tensor) -> Tensor:
            (r, g), (k, v, d) = mixed(x, self.of_target), mixed(y, self.of_source)
            d = torch.tanh(d @ self.down.weight.T) @ self.up.weight.T + self.up.bias
            r, g, k, v = (t @ self.projections[name].weight.T for name, t in zip("rgkv", (r, g, k, v), strict=True))
            r, g, k, v, d = (t.unflatten(2, (self.slot.heads, -1)).transpose(1, 2) for t in (r, g, k, v, d))
            kept, state, rows = torch.exp(-torch.exp(d)), torch.zeros_like(k[:, :, :1].mT @ v[:, :, :1]), []
            for j in range(k.shape[2]):
                written = k[:, :, [j]].mT @ v[:, :, [j]]
                if self.bonus is not None:
                    rows.append(r[:, :, [j]] @ (state + self.bonus.mT * written))
                state = kept[:, :, [j]].mT * state + written
            out = r @ state if self.bonus is None else torch.cat(rows, 2)
            mean, variance = out.mean(-1, keepdim=True), out.var(-1, correction=0, keepdim=True)
            return ((out - mean) / (variance + 1e-5) ** 0.5 * self.norm.scale + self.norm.shift) * F.silu(g)

        out = one_way(x, y)
        return (out + one_way(x.flip(1), y.flip(1)).flip(2)) / 2 if self.slot.pattern is Pattern.NS else out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count mixes and projections, and each way the chunks; in cross patterns one write and one read a token."""
        heads, dim, size = self.slot.heads, self.slot.dim, self.slot.values
        if self.slot.pattern.cross:
            return self._around(n, m) + 2.0 * heads * (n + m) * dim * size
        state = 2.0 * dim * size  # the last token is added on its own
        return self._ways() * (self._around(n, m) + heads * (gated_flops(n, dim, size, self.chunk) + state))

    def flops_needed(self, n: int, m: int) -> float:
        """Count mixes and projections, and each way one addition to the state and one read of each token."""
        return self._ways() * (self._around(n, m) + 2.0 * self.slot.heads * (n + m) * self.slot.dim * self.slot.values)

    def init_state(self, k: None, v: None, key_mask: Maybe = None, *, y: Tensor) -> Any:
        """Read the source (CC), or begin with an empty state (CS); zeros stand before the first tokens."""
        before = y.new_zeros(y.shape[0], 1, y.shape[2])
        if not self.slot.pattern.cross:
            size = y.shape[0], self.slot.heads, self.slot.dim, self.slot.values
            return y.new_zeros(size, dtype=at_least_float32(y)), before, before
        k, v, gate, _ = self._source(y, before, key_mask)
        with full_precision(y.device.type):
            return outer_sum(k * exclusive_suffix_sums(gate).exp(), v), before

    def step(
        self, state: Any, q: None, k: None = None, v: None = None, key_mask: Maybe = None, *, x: Tensor, y: Maybe = None
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or carry it over the new tokens (CS)."""
        state, before, *last = state
        r, g, before = self._target(x, before, key_mask)
        if y is None:
            with full_precision(x.device.type):
                out = r.to(state.dtype) @ state
            return self._finish(out, g), (state, before)
        k, v, gate, last_source = self._source(y, last[0], key_mask)
        out, state = self._carry(r, k, v, gate, state)
        return self._finish(out, g), (state, before, last_source)

    def _mix(self, x: Tensor, y: Tensor, query_mask: Maybe, key_mask: Maybe) -> Tensor:
        if not self.slot.pattern.cross:
            return self.step(self.init_state(None, None, y=y), None, key_mask=key_mask, x=x, y=y)[0]
        return self.step(self.init_state(None, None, key_mask, y=y), None, key_mask=query_mask, x=x)[0]

    def _heads(self, t: Tensor) -> Tensor:
        return torch.unflatten(t, 2, (self.slot.heads, -1)).transpose(1, 2)

    def _target(self, x: Tensor, before: Tensor, mask: Maybe) -> tuple[Tensor, Tensor, Tensor]:
        """Return r and g, (batch, heads, n, ·), and the last token."""
        shifted, last = token_shift(x, before, mask)
        mixed = self.of_target(x, shifted, self.base)
        r, g = (self._heads(self.projections[name](t)) for name, t in zip("rg", mixed, strict=True))
        return r, g, last

    def _source(self, y: Tensor, before: Tensor, mask: Maybe) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return k, v and log w, (batch, heads, m, ·), in float32 at least, and the last token."""
        shifted, last = token_shift(y, before, mask)
        *mixed, of_decay = self.of_source(y, shifted, self.base)
        k, v = (self._heads(self.projections[name](t)) for name, t in zip("kv", mixed, strict=True))
        dtype = at_least_float32(k)
        gate = -self._heads(self.up(torch.tanh(self.down(of_decay)))).to(dtype).exp()
        return zero_masked(k.to(dtype), mask), v.to(dtype), zero_masked(gate, mask), last

    def _carry(self, r: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Read the state before each token, and its own key with the bonus; return the last state too."""
        r = r.to(k.dtype)
        own = (r * self.bonus.to(k.dtype) * k).sum(3, keepdim=True) * v
        late = (F.pad(t[:, :, :-1], (0, 0, 1, 0)) for t in (k, v, gate))  # a token later: the state before it
        out, before_last = gated_linear(r, *late, state, self.chunk)
        with full_precision(k.device.type):
            last = gate[:, :, -1:].mT.exp() * before_last + outer_sum(k[:, :, -1:], v[:, :, -1:])
        return out + own, last

    def _finish(self, out: Tensor, g: Tensor) -> Tensor:
        return (self.norm(out) * F.silu(g)).to(g.dtype)

    def _ways(self) -> int:
        return 2 if self.slot.pattern is Pattern.NS else 1

    def _around(self, n: int, m: int) -> float:
        weights = {name: each.weight.numel() for name, each in self.projections.items()}
        of_target = 2.0 * n * (weights["r"] + weights["g"]) + self.of_target.flops(n)
        low_rank = self.down.weight.numel() + self.up.weight.numel()
        return of_target + 2.0 * m * (weights["k"] + weights["v"] + low_rank) + self.of_source.flops(m)
