"""Performer (Choromanski et al., arXiv 2009.14794): softmax attention estimated with positive random features.

FAVOR+: phi(x)_f = exp(w_f . x - |x|^2 / 2) with x scaled by dim^(-1/4) and w_f orthogonal Gaussian directions (lemma 1
and equation 7), normalised over the keys. The paper's small constant beside each exponential is left out: with it the
result depends on which largest score is taken out for safety, and that reads the future in CS. The directions are
drawn once, are saved with the weights and shared by the heads; drawing them anew during training is left out.

`kernel=relu` is the paper's generalised attention (its section 4.3): phi(x)_f = relu(w_f . x) + 0.001, and with
features=0, phi(x) = relu(x) + 0.001, Long Range Arena's form.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.prefix import causal_linear, causal_linear_flops, normalise, outer_sum, summation_operands, updated_state
from cab.ops.random_features import (
    FLOOR,
    FeatureSums,
    causal_sums,
    empty_sums,
    orthogonal_directions,
    read_sums,
    sum_keys,
)

ABOVE = 1e-3  # what the ReLU kernel adds, as in the authors' code


class Performer(Mechanism):
    """Keys and values summed by random features, which queries read through theirs."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 2009.14794"
    cost = "O((n + m) f d)"
    checks = (
        {"features": 21, "chunk": 4},
        {"features": 5, "chunk": 1},
        {"features": 11, "kernel": "relu", "chunk": 4},
        {"features": 0, "kernel": "relu"},
    )

    directions: Tensor

    def __init__(self, slot: Any, *, features: int = 256, kernel: str = "softmax", chunk: int = 128) -> None:
        super().__init__(slot)
        if kernel not in ("softmax", "relu"):
            raise ValueError(f"kernel={kernel!r}: softmax or relu")
        if features < (kernel == "softmax"):
            raise ValueError(f"features={features}: at least 1, or 0 for no projection with kernel=relu")
        if chunk < 1:
            raise ValueError(f"chunk={chunk}: at least 1 token is needed")
        self.features, self.kernel, self.chunk = features, kernel, chunk
        self.count = features or slot.dim
        if features:
            self.register_buffer("directions", orthogonal_directions(features, slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sum once (NS, NC, CC), or over prefixes in chunks (CS)."""
        if self.kernel == "relu":
            return normalise(self._summed_relu(q, k, v, key_mask)).to(v.dtype)
        if self.slot.pattern is not Pattern.CS:
            return self._read(q, self.init_state(k, v, key_mask))
        v, dtype = self._values(v, key_mask), v.dtype
        with full_precision(v.device.type):
            out, _ = causal_sums(self._mapped(q), self._keys(k, key_mask), v, self.chunk)
        return normalise(out).to(dtype)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write the features of every token and the weight of every pair, and normalise the rows."""
        features = []
        for x in (q, k):
            x = x / self.slot.dim**0.25
            products = torch.einsum("bhid,fd->bhif", x, self.directions) if self.features else x
            if self.kernel == "relu":
                features.append(products.clamp(min=0) + ABOVE)
            else:
                features.append((products - (x**2).sum(-1, keepdim=True) / 2).exp())
        weights = torch.einsum("bhif,bhjf->bhij", *features)
        if self.slot.pattern is Pattern.CS:
            weights = weights.tril()
        if key_mask is not None:
            weights = weights * key_mask[:, None, None, :]
        total = weights.sum(-1, keepdim=True)
        return (weights / total.where(total > 0, 1.0)) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Features, sums and reading; in CS the products inside the chunks too. The normaliser is one more value."""
        if self.slot.pattern is not Pattern.CS:
            return self.flops_needed(n, m)
        summing = causal_linear_flops(n, self.count, self.slot.values + 1, self.chunk)
        return self.slot.heads * (summing + 2.0 * (n + m) * self.features * self.slot.dim)

    def flops_needed(self, n: int, m: int) -> float:
        """Each token gets its features; each key enters the sums once and each query reads them once."""
        each = self.features * self.slot.dim + self.count * (self.slot.values + 1)
        return 2.0 * self.slot.heads * (n + m) * each

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Sum over the source, or over nothing, in float32 at least: sums in 16 bits stop growing."""
        k, v = self._keys(k, key_mask), self._values(v, key_mask)
        with full_precision(v.device.type):
            if self.kernel == "relu":
                return outer_sum(k.to(at_least_float32(k)), v.to(at_least_float32(v)))
            return sum_keys(k, v) if k.shape[2] else empty_sums(self.count, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the sums, and among the new tokens (CS) those up to each one."""
        if k is None or v is None:
            return self._read(q, state), state
        a, k, v = self._mapped(q), self._keys(k, key_mask), self._values(v, key_mask)
        with full_precision(v.device.type):
            if self.kernel == "relu":
                a, k, v = (t.to(state.dtype) for t in (a, k, v))
                out, state = a @ state + causal_linear(a, k, v, self.chunk), updated_state(state, k, v)
            else:
                out, state = causal_sums(a, k, v, self.chunk, FeatureSums(*state))
        return normalise(out).to(q.dtype), state

    def _summed_relu(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the sums and, in the last column, the normaliser, in the type of the features."""
        device = v.device.type
        if self.slot.pattern is Pattern.CS:
            q, k, v = summation_operands(self._mapped(q), self._keys(k, key_mask), self._values(v, key_mask))
            with full_precision(device):
                return causal_linear(q, k, v, self.chunk)
        k, v = summation_operands(self._keys(k, key_mask), self._values(v, key_mask))
        with full_precision(device):
            state = outer_sum(k, v)
        del k, v  # the queries' features take their room
        (q,) = summation_operands(self._mapped(q))
        with full_precision(device):
            return q @ state

    def _mapped(self, x: Tensor, keys: bool = False) -> Tensor:
        """Return the features (ReLU), or their logarithms, for 16-bit tensors in float32: they are exponents.

        What is made of them stays in float32, under autocast too: the gradient of a mean is a difference of sums.

        A query's own |x|^2 / 2 is left out: it is the same for all of its weights, so their normaliser cancels it.
        """
        if self.kernel == "relu":
            x = x * self.slot.dim**-0.25
            return (x @ self.directions.to(x.dtype).T if self.features else x).relu() + ABOVE
        x = x.to(at_least_float32(x)) * self.slot.dim**-0.25
        with full_precision(x.device.type):
            products = x @ self.directions.to(x.dtype).T
        return products.add_(x.square().sum(-1, keepdim=True) * -0.5) if keys else products

    def _keys(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the keys' features or logarithms, without what is masked."""
        k = self._mapped(k, keys=True)
        masked = 0.0 if self.kernel == "relu" else FLOOR
        return k if key_mask is None else k.masked_fill(~key_mask[:, None, :, None], masked)

    def _values(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return v with a column of ones, in the type of the keys' features and without what is masked."""
        v = F.pad(v if self.kernel == "relu" else v.to(at_least_float32(v)), (0, 1), value=1.0)
        return v if key_mask is None else v.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _read(self, q: Tensor, state: Any) -> Tensor:
        """Let the queries read what was summed."""
        with full_precision(q.device.type):
            if self.kernel == "relu":
                out = self._mapped(q).to(state.dtype) @ state
            else:
                out = read_sums(self._mapped(q), FeatureSums(*state))
        return normalise(out).to(q.dtype)
