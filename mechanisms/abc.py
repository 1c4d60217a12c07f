"""ABC, attention with bounded memory (Peng et al., arXiv 2110.02488): few slots, which tokens are written into.

Slot r holds the mean of the keys, and the mean of the values, with the weights exp(w_r . y_j) of the tokens y_j
(ABC_MLP, equation 8 with its normaliser). A query attends to the slots by softmax (equation 3). In CS the means run
over the tokens up to the query's own.

`gated` is gated slot attention (arXiv 2409.07146), without the Swish of its queries, keys and values and the norm and
gate of its output, so that it counts as ours. At each token, slot r becomes alpha times what it holds plus
1 - alpha times the new key (or value), with the gate alpha = sigmoid(w_r . y)^(1/8). The paper's form is CS. NC and CC
read the slots after the last token of the source. NS averages a forward pass and a backward pass.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.gated import exclusive_suffix_sums, gated_flops, gated_linear, gated_scores
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import causal_linear_flops, causal_linear_from, fit_chunk
from cab.ops.running_softmax import RunningWeights
from cab.ops.softmax import masked_softmax

FLOOR = -1e30  # the log-sum of no tokens: finite, since the difference of two infinities is not a number
DAMPING = 8  # root of the gate, as in gated slot attention
# in CS: log-sums (batch, heads, slots), slot keys (batch, heads, dim, slots), slot values (batch, heads, slots, size)
State = tuple[Tensor, Tensor, Tensor]


class Abc(Mechanism):
    """Each token writes into a few slots, with weights of its own. Queries attend to the slots."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    ours = ({"gated": True},)
    paper = "arXiv 2110.02488"
    parity = "fla (plain functions)"
    cost = "O((n + m) s d)"
    inputs = {"y": ("keys", "real", "width")}
    accepts = {"chunk": "power of two", "slots": ">= 1"}
    checks = ({"slots": 5, "chunk": 8}, {"slots": 3, "gated": True, "chunk": 8})

    def __init__(self, slot: Any, *, slots: int = 32, gated: bool = False, chunk: int = 64) -> None:
        super().__init__(slot)
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
        """Read the slots after all tokens; or after each token, in one direction (CS) or both (gated NS)."""
        if self.slot.pattern is Pattern.CS:
            return self._attend_causally(q, k, v, y, key_mask, self._empty_state(k, v))[0]
        if self.gated and self.slot.pattern is Pattern.NS:
            outs = []
            for flip in (lambda t: t, lambda t: t if t is None else t.flip(-2 if t.dim() > 2 else -1)):
                tensors = [flip(t) for t in (q, k, v, y, key_mask)]
                outs.append(flip(self._attend_causally(*tensors, self._empty_state(k, v))[0]))
            return (outs[0] + outs[1]) / 2
        return self._read_slots(q, *self._fill_slots(k, v, y, key_mask))

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, y: Tensor) -> Tensor:
        """Write out the share of each token in each slot, after the last token or after each, and read the slots."""

        def read(q: Tensor, k: Tensor, v: Tensor, control: Tensor) -> Tensor:
            if self.gated:
                alpha = torch.sigmoid(control) ** (1 / DAMPING)
                later = torch.cat([alpha[..., 1:], torch.ones_like(alpha[..., :1])], -1)
                share = (1 - alpha) * later.flip(-1).cumprod(-1).flip(-1)  # times alpha of all later tokens
            else:
                share = control.exp() / control.exp().sum(-1, keepdim=True)
            return (q @ (share @ k).mT / self.slot.dim**0.5).softmax(-1) @ (share @ v)

        def read_after_each(q: Tensor, k: Tensor, v: Tensor, control: Tensor) -> Tensor:
            prefixes = [slice(i + 1) for i in range(q.shape[2])]
            return torch.cat(
                [read(q[:, :, p][:, :, -1:], k[:, :, p], v[:, :, p], control[..., p]) for p in prefixes], 2
            )

        control = (y @ self.control.weight.T).unflatten(2, (self.slot.heads, self.slots)).permute(0, 2, 3, 1)
        if self.slot.pattern is Pattern.CS:
            return read_after_each(q, k, v, control)
        if self.gated and self.slot.pattern is Pattern.NS:
            backward = read_after_each(q.flip(2), k.flip(2), v.flip(2), control.flip(3)).flip(2)
            return (read_after_each(q, k, v, control) + backward) / 2
        return read(q, k, v, control)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the weights of the tokens, writing into the slots, the products with them and reading them."""
        dim, size, slots = self.slot.dim, self.slot.values, self.slots
        control = 2.0 * m * self.slot.tokens * slots
        if self.slot.pattern is Pattern.CS or (self.gated and self.slot.pattern is Pattern.NS):
            directions = 1 if self.slot.pattern is Pattern.CS else 2
            if self.gated:
                sums = gated_flops(n, dim, slots, self.chunk) + gated_flops(n, slots, size, self.chunk)
            else:
                chunk = fit_chunk(self.chunk, n)
                sums = causal_linear_flops(n, dim, slots, chunk) + causal_linear_flops(n, slots, size, chunk)
            return self.slot.heads * directions * (control + sums)
        return self.flops_needed(n, m)

    def flops_needed(self, n: int, m: int) -> float:
        """Count one write of each token and one read of each query; in gated NS, two of each."""
        directions = 2 if self.gated and self.slot.pattern is Pattern.NS else 1
        mixing = directions * (n + m) * self.slots * (self.slot.dim + self.slot.values)
        return 2.0 * self.slot.heads * (mixing + m * self.slot.tokens * self.slots)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None, *, y: Tensor) -> Any:
        """Fill the slots from the source (CC), or begin with empty ones (CS)."""
        return self._fill_slots(k, v, y, key_mask) if self.slot.pattern.cross else self._empty_state(k, v)

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
            return self._read_slots(q, *state), state
        return self._attend_causally(q, k, v, y, key_mask, state)

    def _controls(self, y: Tensor) -> Tensor:
        """Return w_r . y_j, (batch, heads, tokens, slots), in float32 at least, as these are exponents."""
        control = self.control(y).unflatten(-1, (self.slot.heads, -1)).transpose(1, 2)
        return control.to(at_least_float32(control))

    def _fill_slots(self, k: Tensor, v: Tensor, y: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the slots after all tokens, each (batch, heads, slots, ·)."""
        control = self._controls(y)
        if self.gated:
            gate, write = self._gates(control, key_mask)
            share = (write * exclusive_suffix_sums(gate).exp()).transpose(-1, -2)
        else:
            share = masked_softmax(control.transpose(-1, -2), None if key_mask is None else key_mask[:, None, None, :])
        return share.to(k.dtype) @ k, share.to(v.dtype) @ v

    def _read_slots(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return ((q * self.slot.dim**-0.5) @ keys.transpose(-1, -2)).softmax(-1) @ values

    def _read_weights(self, products: Tensor) -> Tensor:
        """Return the weights of the slots, from the products of queries and slot keys."""
        return (products * self.slot.dim**-0.5).softmax(-1)

    def _empty_state(self, k: Tensor, v: Tensor) -> State:
        shape, slot = (k.shape[0], self.slot.heads), self.slot
        options = {"dtype": at_least_float32(k), "device": k.device}
        log_sums = torch.full((*shape, self.slots), FLOOR, **options)
        keys = torch.zeros(*shape, slot.dim, self.slots, **options)
        return log_sums, keys, torch.zeros(*shape, self.slots, slot.values, **options)

    def _gates(self, control: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return log alpha and 1 - alpha of each token and slot. A masked token has alpha = 1: it writes nothing."""
        gate = nn.functional.logsigmoid(control) / DAMPING
        if key_mask is not None:
            gate = gate.masked_fill(~key_mask[:, None, :, None], 0.0)
        return gate, -gate.expm1()

    def _attend_causally(
        self, q: Tensor, k: Tensor, v: Tensor, y: Tensor, key_mask: Tensor | None, state: State
    ) -> tuple[Tensor, State]:
        log_sums, keys, values = state
        control, dtype = self._controls(y), v.dtype
        q, k, v = (t.to(control.dtype) for t in (q, k, v))
        with full_precision(v.device.type):  # where log-sums rise, weights are large: float16 overflows
            if self.gated:
                gate, write = self._gates(control, key_mask)
                del control
            else:  # a running mean is a gated sum, where log alpha is the old log-sum minus the new one
                if key_mask is not None:
                    masked = ~key_mask[:, None, :, None]
                    control = control.masked_fill(masked, FLOOR)
                    k, v = (t.masked_fill(masked, 0) for t in (k, v))
                weights = RunningWeights.of(control, log_sums)
                if weights:
                    out, state = self._running_means(weights, q, k, v, state)
                    return out.to(dtype), state
                running = torch.cat([log_sums.unsqueeze(2), control], 2).logcumsumexp(2)
                old, new = running[:, :, :-1], running[:, :, 1:]
                gate = (old - new).masked_fill(old <= FLOOR / 2, 0.0)  # the slot is empty
                write = (control - new).exp().masked_fill(control <= FLOOR / 2, 0.0)
                log_sums = new[:, :, -1]
            products, keys = gated_scores(q, k, write, gate, keys, self.chunk)
            read = self._read_weights(products)
            del products
            out, values = gated_linear(read, write, v, gate, values, self.chunk)
            return out.to(dtype), (log_sums, keys, values)

    def _running_means(
        self, weights: RunningWeights, q: Tensor, k: Tensor, v: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """Compute ungated CS as linear attention twice: queries with keys, then read weights with values."""
        _, keys, values = state
        initial, total, chunk = weights.initial, weights.total, fit_chunk(self.chunk, q.shape[2])
        products, keys = causal_linear_from(q, k, weights.token, keys * initial.unsqueeze(2), chunk)
        read = weights.normalise(self._read_weights(weights.normalise(products)))
        out, values = causal_linear_from(read, weights.token, v, values * initial.unsqueeze(3), chunk)
        return out, (weights.final_log_sum, keys / total.unsqueeze(2), values / total.unsqueeze(3))
