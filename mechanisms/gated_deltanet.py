"""Gated DeltaNet (Yang et al., arXiv 2412.06464): a state that fades, and rewrites what stands under a key.

After a short convolution and SiLU, with q and k of length 1 (q then over sqrt(dim)), per head

    S_t = alpha_t S_(t-1) + beta_t k_t (v_t - alpha_t S_(t-1)^T k_t)^T,   o_t = S_t^T q_t                  (equation 10)
    beta = sigmoid(W_b y),   alpha = exp(-exp(A) softplus(W_a y + b))

and an RMS norm of each head's result, gated by swish(x W). The output's projection is the layer's. `decay=False` is
DeltaNet (arXiv 2406.06484); `negative=True` doubles beta, for states that can flip signs (arXiv 2411.12537).

- CS is the paper's, in chunks (`cab.ops.delta_rule`). With rotary positions, which turn q and k before the convolution,
  it is ours.
- NS (ours): a pass forward and one backward, convolutions included, with the same gates; their results are averaged.
- NC and CC (ours) read the state as it stands at the end of the source, so that the end is remembered best.
"""

from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.delta_rule import delta_rule, delta_rule_flops
from cab.ops.norms import GatedNorm
from cab.ops.precision import at_least_float32, full_precision, widened
from cab.ops.ragged import zero_masked
from cab.ops.short_convolution import ShortConvolution


class GatedDeltanet(Mechanism):
    """Linear attention that fades, and replaces the value under a key instead of adding to it."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"rotary": True},)
    paper = "arXiv 2412.06464"
    parity = "transformers (Qwen3-Next), fla (plain functions)"
    cost = "O((n + m) d^2)"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    accepts = {"conv": ">= 1", "chunk": ">= 1"}
    checks = ({"chunk": 8}, {"chunk": 5, "conv": 1, "decay": False, "negative": True})

    def __init__(
        self, slot: Any, *, conv: int = 4, decay: bool = True, negative: bool = False, chunk: int = 64
    ) -> None:
        super().__init__(slot)
        self.chunk, self.most = chunk, 2.0 if negative else 1.0
        self.ways = 2 if slot.pattern is Pattern.NS else 1
        self.of_beta = nn.Linear(slot.tokens, slot.heads, bias=False)
        self.of_decay = nn.Linear(slot.tokens, slot.heads, bias=False) if decay else None
        if decay:  # rates of 1 to 16, times steps of 0.001 to 0.1, as in Mamba-2
            self.log_rate = nn.Parameter(torch.empty(slot.heads).uniform_(1, 16).log())
            self.shift = nn.Parameter(torch.empty(slot.heads).uniform_(log(0.001), log(0.1)).exp().expm1().log())
        self.convs = nn.ModuleList(ShortConvolution(slot.heads, s, conv) for s in (slot.dim, slot.dim, slot.values))
        self.norm = GatedNorm(slot.tokens, slot.heads, slot.values)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Carry the state over chunks (CS), both ways (NS), or read it at the end of the source (NC, CC)."""
        if self.slot.pattern.cross:
            return self.step(self.init_state(k, v, key_mask, y=y), q, x=x)[0]
        tokens = [zero_masked(t, key_mask) for t in (q, k, v)] + self._gates(y, key_mask)
        out = self._pass(*tokens)
        if self.ways == 2:
            out = (out + self._pass(*(t.flip(2) for t in tokens)).flip(2)) / 2
        return self.norm(out, x)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Tensor, y: Tensor) -> Tensor:
        """Run the recurrence, token by token, each way."""
        beta = self.most * torch.sigmoid(y @ self.of_beta.weight.T).mT[..., None, None]  # (1, heads, m, 1, 1)
        alpha = torch.ones_like(beta)
        if self.of_decay is not None:
            steps = F.softplus(y @ self.of_decay.weight.T + self.shift)
            alpha = torch.exp(-self.log_rate.exp() * steps).mT[..., None, None]

        def convolved(t: Tensor, conv: ShortConvolution) -> Tensor:
            kernel, padded = conv.kernel.reshape(t.shape[1], 1, t.shape[3], -1), F.pad(t, (0, 0, conv.width - 1, 0))
            return F.silu(sum(kernel[..., p] * padded[:, :, p : p + t.shape[2]] for p in range(conv.width)))

        def recurrence(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, alpha: Tensor) -> Tensor:
            q, k, v = map(convolved, (q, k, v), self.convs)
            q, k = (t / ((t**2).sum(-1, keepdim=True) + 1e-6) ** 0.5 for t in (q, k))
            state, states = torch.zeros_like(k[:, :, :1].mT @ v[:, :, :1]), []
            for j in range(k.shape[2]):
                key, state = k[:, :, [j]], alpha[:, :, j] * state
                state = state + beta[:, :, j] * key.mT @ (v[:, :, [j]] - key @ state)
                states.append(state)
            read = q @ state if self.slot.pattern.cross else (q.unsqueeze(3) @ torch.stack(states, 2)).squeeze(3)
            return read / self.slot.dim**0.5

        out = recurrence(q, k, v, beta, alpha)
        if self.slot.pattern is Pattern.NS:
            out = (out + recurrence(*(t.flip(2) for t in (q, k, v, beta, alpha))).flip(2)) / 2
        out = out / ((out**2).mean(-1, keepdim=True) + 1e-6) ** 0.5 * self.norm.scale
        return out * F.silu(x @ self.norm.gate.weight.T).reshape(1, -1, *out.shape[1::2]).transpose(1, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count gates and convolutions, the chunks each way, and in cross patterns reading the state."""
        dim, size, cross = self.slot.dim, self.slot.values, self.slot.pattern.cross
        a_head = self.ways * delta_rule_flops(m, dim, size, self.chunk, read=not cross) + 2.0 * n * dim * size * cross
        return self._around(n, m) + self.slot.heads * a_head

    def flops_needed(self, n: int, m: int) -> float:
        """Count gates and convolutions; each token reads under its key and writes there, and each query reads."""
        return self._around(n, m) + 2.0 * self.ways * self.slot.heads * (n + 2 * m) * self.slot.dim * self.slot.values

    def init_state(self, k: Tensor, v: Tensor, key_mask: Any = None, *, y: Tensor) -> Any:
        """Read the source (CC), or begin with an empty state (CS); with no last tokens to convolve."""
        if not self.slot.pattern.cross:
            return _empty(k, v), [conv.init_state(t) for conv, t in zip(self.convs, (k, k, v), strict=True)]
        of_source = (conv(zero_masked(t, key_mask)) for conv, t in zip(self.convs[1:], (k, v), strict=True))
        return self._carry(None, *of_source, *self._gates(y, key_mask), _empty(k, v))[1], [self.convs[0].init_state(k)]

    def step(
        self, state: Any, q: Tensor, k: Any = None, v: Any = None, key_mask: Any = None, *, x: Tensor, y: Any = None
    ) -> tuple[Tensor, Any]:
        """Read the state (CC), or carry it over the new tokens (CS)."""
        state, last = state
        tokens = (q,) if y is None else (q, k, v)
        steps = [conv.step(t, before, key_mask) for conv, t, before in zip(self.convs, tokens, last, strict=False)]
        tokens, last = zip(*steps, strict=True)
        if y is None:
            with full_precision(q.device.type):
                out = _unit(*tokens) * self.slot.dim**-0.5 @ state
            return self.norm(out, x), (state, last)
        out, state = self._carry(*tokens, *self._gates(y, key_mask), state)
        return self.norm(out, x), (state, last)

    def _gates(self, y: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return beta and log alpha, (batch, heads, m, 1), in float32 at least. A masked token leaves the state."""
        beta = self.most * torch.sigmoid(widened(self.of_beta(y)))
        decay = torch.zeros_like(beta)
        if self.of_decay is not None:  # times softplus, whose gradient compiles
            decay = widened(self.log_rate).exp() * F.logsigmoid(-widened(self.of_decay(y)) - self.shift)
        return [zero_masked(t.transpose(1, 2).unsqueeze(-1), mask) for t in (beta, decay)]

    def _pass(self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
        q, k, v = (conv(t) for conv, t in zip(self.convs, (q, k, v), strict=True))
        return self._carry(q, k, v, beta, decay, _empty(k, v))[0]

    def _carry(self, q: Any, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor) -> tuple[Any, Tensor]:
        q = None if q is None else _unit(q) * self.slot.dim**-0.5
        return delta_rule(q, _unit(k), F.silu(v).to(beta.dtype), beta, decay, state, self.chunk)

    def _around(self, n: int, m: int) -> float:
        gates = 2.0 * m * sum(t.weight.numel() for t in (self.of_beta, self.of_decay) if t is not None)
        convs = sum(conv.flops(length) for conv, length in zip(self.convs, (n, m, m), strict=True))
        return gates + self.ways * convs + self.norm.flops(n)


def _unit(t: Tensor) -> Tensor:
    """Return SiLU of t with each token at length 1, in float32 at least."""
    t = widened(F.silu(t))
    return t * (t.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def _empty(k: Tensor, v: Tensor) -> Tensor:
    return k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=at_least_float32(k))
