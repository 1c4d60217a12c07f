"""ABC, attention with bounded memory (Peng et al., arXiv 2110.02488): few slots, which tokens are written into.

Slot r holds the mean of the keys, and of the values, weighted by exp(w_r . y_j) of the tokens y_j (ABC_MLP, equation
8 with its normaliser); a query attends to the slots by softmax (equation 3). In CS slot r at token t is that mean over
the tokens up to t, computed with running log-sums.

`gated` is gated slot attention (arXiv 2409.07146): at each token a slot keeps the share alpha = sigmoid(w_r . y)^(1/8)
of what it holds and takes 1 - alpha of the new key and value. Its own form is CS. In NC and CC the slots are read as
they stand at the end of the source; NS averages a pass forward and a pass backward.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums, gated_flops, gated_linear, gated_scores
from cab.ops.precision import full_precision
from cab.ops.prefix import causal_linear_flops, causal_linear_from, fit_chunk
from cab.ops.running_softmax import RunningWeights
from cab.ops.softmax import masked_softmax

FLOOR = -1e30  # the log-sum of nothing: finite, since the difference of two infinities is not a number
DAMPING = 8  # root of the gate, as in gated slot attention
State = tuple[Tensor, Tensor, Tensor]  # log-sums (batch, heads, slots), keys (·, dim, slots), values (·, slots, size)


class Abc(Mechanism):
    """Tokens are written into a few slots by a control of their own; queries attend to the slots."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 2110.02488"
    cost = "O((n + m) s d)"
    inputs = {"y": ("keys", "real", "width")}
    checks = ({"slots": 5, "chunk": 8}, {"slots": 3, "gated": True, "chunk": 8})

    def __init__(self, slot: Any, *, slots: int = 32, gated: bool = False, chunk: int = 64) -> None:
        super().__init__(slot)
        if slots < 1:
            raise ValueError(f"slots={slots}: at least 1 is needed")
        if chunk < 1 or chunk & (chunk - 1):
            raise ValueError(f"chunk={chunk}: a power of two is needed")
        self.slots, self.gated, self.chunk = slots, gated, chunk
        self.control = nn.Linear(slot.tokens, slot.heads * slots, bias=False)
        if gated and slot.pattern is not Pattern.CS:
            self.grade = "extension"

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        y: Tensor,
    ) -> Tensor:
        """Fill the slots once (NC, CC, NS without gates), or at every token (CS, and NS with gates both ways)."""
        if self.slot.pattern is Pattern.CS:
            return self._running(q, k, v, y, key_mask, self._empty(k, v))[0]
        if self.gated and self.slot.pattern is Pattern.NS:
            passes = []
            for flip in (lambda t: t, lambda t: t if t is None else t.flip(-2 if t.dim() > 2 else -1)):
                turned = [flip(t) for t in (q, k, v, y, key_mask)]
                passes.append(flip(self._running(*turned, self._empty(k, v))[0]))
            return (passes[0] + passes[1]) / 2
        return self._read(q, *self._filled(k, v, y, key_mask))

    def reference(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        *,
        y: Tensor,
    ) -> Tensor:
        """Write the share of every token in every slot, at the end or at each token, and attend to the slots."""
        batch, m = k.shape[0], k.shape[2]
        real = torch.ones(batch, m, dtype=torch.bool, device=k.device) if key_mask is None else key_mask
        control = torch.einsum("bjw,sw->bjs", y, self.control.weight)
        control = control.reshape(batch, m, self.slot.heads, self.slots).permute(0, 2, 3, 1)  # (batch, heads, slots, m)
        if not self.slot.pattern.cross and (self.gated or self.slot.pattern is Pattern.CS):
            ways = [range(1, m + 1)] if self.slot.pattern is Pattern.CS else [range(1, m + 1), range(m)]
            passes = []
            for way in ways:
                rows = []
                for i in range(m):
                    seen = slice(0, i + 1) if way.start else slice(i, m)
                    share = self._shares(control[..., seen], real[:, seen], backward=not way.start)
                    rows.append(self._attended(q[:, :, i : i + 1], share, k[:, :, seen], v[:, :, seen]))
                passes.append(torch.cat(rows, 2))
            return sum(passes) / len(passes)
        return self._attended(q, self._shares(control, real), k, v)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Controls, filling the slots, products with them and reading them."""
        dim, size, slots = self.slot.dim, self.slot.values, self.slots
        control = 2.0 * m * self.slot.tokens * slots
        if self.slot.pattern is Pattern.CS or (self.gated and self.slot.pattern is Pattern.NS):
            ways = 1 if self.slot.pattern is Pattern.CS else 2
            if self.gated:
                both = gated_flops(n, dim, slots, self.chunk) + gated_flops(n, slots, size, self.chunk)
            else:
                chunk = fit_chunk(self.chunk, n)
                both = causal_linear_flops(n, dim, slots, chunk) + causal_linear_flops(n, slots, size, chunk)
            return self.slot.heads * ways * (control + both)
        return self.flops_needed(n, m)

    def flops_needed(self, n: int, m: int) -> float:
        """Each token has its controls and enters the slots once (both ways with gates in NS); each query reads once."""
        ways = 2 if self.gated and self.slot.pattern is Pattern.NS else 1
        mixing = ways * (n + m) * self.slots * (self.slot.dim + self.slot.values)
        return 2.0 * self.slot.heads * (mixing + m * self.slot.tokens * self.slots)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Fill the slots from the source (CC), or begin with empty ones (CS)."""
        return self._filled(k, v, y, key_mask) if self.slot.pattern.cross else self._empty(k, v)

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Read the slots (CC), or write the new tokens into them too (CS)."""
        if k is None or v is None or y is None:
            return self._read(q, *state), state
        return self._running(q, k, v, y, key_mask, state)

    def _controls(self, y: Tensor) -> Tensor:
        """(batch, heads, tokens, slots), for 16-bit tensors in float32: they are exponents."""
        control = self.control(y).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
        return control.to(torch.promote_types(control.dtype, torch.float32))

    def _filled(self, k: Tensor, v: Tensor, y: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the slots' keys and values after all tokens: (batch, heads, slots, ·)."""
        control = self._controls(y)
        if self.gated:
            gate, write = self._gates(control, key_mask)
            share = (write * exclusive_suffix_sums(gate).exp()).transpose(-1, -2)
        else:
            share = masked_softmax(control.transpose(-1, -2), None if key_mask is None else key_mask[:, None, None, :])
        return share.to(k.dtype) @ k, share.to(v.dtype) @ v

    def _read(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return ((q * self.slot.dim**-0.5) @ keys.transpose(-1, -2)).softmax(-1) @ values

    def _shares_of(self, products: Tensor) -> Tensor:
        """Return what queries read of each slot, from their products with the slots' keys."""
        return (products * self.slot.dim**-0.5).softmax(-1)

    def _empty(self, k: Tensor, v: Tensor) -> State:
        batch, dtype = k.shape[0], torch.promote_types(k.dtype, torch.float32)
        place = {"dtype": dtype, "device": k.device}
        sums = torch.full((batch, self.slot.heads, self.slots), FLOOR, **place)
        keys = torch.zeros(batch, self.slot.heads, self.slot.dim, self.slots, **place)
        return sums, keys, torch.zeros(batch, self.slot.heads, self.slots, self.slot.values, **place)

    def _gates(self, control: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logarithm of what slots keep at each token, and what they take of it; of a masked one nothing."""
        gate = nn.functional.logsigmoid(control) / DAMPING
        if key_mask is not None:
            gate = gate.masked_fill(~key_mask[:, None, :, None], 0.0)
        return gate, -gate.expm1()

    def _running(
        self, q: Tensor, k: Tensor, v: Tensor, y: Tensor, key_mask: Tensor | None, state: State
    ) -> tuple[Tensor, State]:
        sums, keys, values = state
        control, dtype = self._controls(y), v.dtype
        q, k, v = (t.to(control.dtype) for t in (q, k, v))
        with full_precision(v.device.type):  # a share may be as large as the log-sum rises: float16 overflows
            if self.gated:
                gate, write = self._gates(control, key_mask)
                del control
            else:  # a running mean is a gated sum: what it keeps is the old share of the new log-sum
                if key_mask is not None:
                    masked = ~key_mask[:, None, :, None]
                    control = control.masked_fill(masked, FLOOR)
                    k, v = (t.masked_fill(masked, 0) for t in (k, v))
                weights = RunningWeights.of(control, sums)
                if weights:
                    out, state = self._weighed(weights, q, k, v, state)
                    return out.to(dtype), state
                running = torch.cat([sums.unsqueeze(2), control], 2).logcumsumexp(2)
                old, new = running[:, :, :-1], running[:, :, 1:]
                gate = (old - new).masked_fill(old <= FLOOR / 2, 0.0)  # nothing to forget yet
                write = (control - new).exp().masked_fill(control <= FLOOR / 2, 0.0)
                sums = new[:, :, -1]
            products, keys = gated_scores(q, k, write, gate, keys, self.chunk)
            read = self._shares_of(products)
            del products
            out, values = gated_linear(read, write, v, gate, values, self.chunk)
            return out.to(dtype), (sums, keys, values)

    def _weighed(self, weights: RunningWeights, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        """Read the slots as running means: linear attention twice, of the weights by k, and of v by the weights."""
        _, keys, values = state
        start, count, chunk = weights.initial, weights.total, fit_chunk(self.chunk, q.shape[2])
        products, keys = causal_linear_from(q, k, weights.token, keys * start.unsqueeze(2), chunk)
        read = weights.normalise(self._shares_of(weights.normalise(products)))
        out, values = causal_linear_from(read, weights.token, v, values * start.unsqueeze(3), chunk)
        return out, (weights.final_log_sum, keys / count.unsqueeze(2), values / count.unsqueeze(3))

    def _shares(self, control: Tensor, real: Tensor, backward: bool = False) -> Tensor:
        """Return what each slot holds of each token after the last of them (backward: the first)."""
        if not self.gated:
            share = control.exp() * real[:, None, None, :]
            total = share.sum(-1, keepdim=True)
            return share / total.where(total > 0, 1.0)
        keep = torch.sigmoid(control) ** (1 / DAMPING)
        keep = torch.where(real[:, None, None, :], keep, 1.0)
        m, share = control.shape[-1], []
        for j in range(m):
            rest = keep[..., :j] if backward else keep[..., j + 1 :]
            share.append((1 - keep[..., j]) * rest.prod(-1))
        return torch.stack(share, -1)

    def _attended(self, q: Tensor, share: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhid,bhsd->bhis", q, share @ k) / self.slot.dim**0.5
        return (scores.exp() / scores.exp().sum(-1, keepdim=True)) @ (share @ v)
