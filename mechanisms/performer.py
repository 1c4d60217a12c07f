"""Performer (Choromanski et al., arXiv 2009.14794): softmax attention estimated by positive random features, FAVOR+.

The weight of key j for query i is phi(q_i) . phi(k_j), divided by its sum over the keys. With x scaled by dim^(-1/4),
phi(x)_f = exp(w_f . x - |x|^2 / 2), where the w_f are Gaussian directions, orthogonal in blocks (lemma 1 and equation
7). The directions are drawn once, are shared by the heads and are saved with the weights; drawing them anew during
training is left out.

Two constants of the authors' code are left out. They add an epsilon beside each exponential, and an epsilon to the
normaliser where it is small. The effect of the first depends on which maximum is subtracted from the exponents, and in
CS that maximum would depend on later tokens. The second would scale down the rows whose weights are small. Here the
weights of every row sum to 1; only a row without keys is zero.

`kernel=relu` is the paper's generalised attention (its section 4.3): phi(x)_f = relu(w_f . x) + 0.001. With features=0
it is phi(x) = relu(x) + 0.001, the form of Long Range Arena.
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

RELU_EPSILON = 1e-3  # added to each feature of the ReLU kernel, as in the authors' code


class Performer(Mechanism):
    """Linear attention whose feature map estimates the softmax kernel by random projections."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 2009.14794"
    parity = "performer-pytorch"
    cost = "O((n + m) f d)"
    accepts = {"chunk": ">= 1", "kernel": ("softmax", "relu")}
    checks = (
        {"features": 21, "chunk": 4},
        {"features": 5, "chunk": 1},
        {"features": 11, "kernel": "relu", "chunk": 4},
        {"features": 0, "kernel": "relu"},
    )

    directions: Tensor

    def __init__(self, slot: Any, *, features: int = 256, kernel: str = "softmax", chunk: int = 128) -> None:
        super().__init__(slot)
        if features < (kernel == "softmax"):
            raise ValueError(f"features={features}: at least 1, or 0 for no projection with kernel=relu")
        self.features, self.kernel, self.chunk = features, kernel, chunk
        self.count = features or slot.dim
        if features:
            self.register_buffer("directions", orthogonal_directions(features, slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sum over all keys once, or in CS over prefixes in chunks."""
        if self.kernel == "relu":
            return normalise(self._relu_sums(q, k, v, key_mask)).to(v.dtype)
        if self.slot.pattern is not Pattern.CS:
            return self._read(q, self.init_state(k, v, key_mask))
        v, dtype = self._values_and_ones(v, key_mask), v.dtype
        with full_precision(v.device.type):
            out, _ = causal_sums(self._feature_map(q), self._key_features(k, key_mask), v, self.chunk)
        return normalise(out).to(dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the weight phi(q_i) . phi(k_j) of each pair, and normalise the rows."""

        def phi(x: Tensor) -> Tensor:
            x = x / self.slot.dim**0.25
            products = torch.einsum("bhid,fd->bhif", x, self.directions) if self.features else x
            if self.kernel == "relu":
                return products.clamp(min=0) + RELU_EPSILON
            return (products - x.square().sum(-1, keepdim=True) / 2).exp()

        weights = phi(q) @ phi(k).mT
        if self.slot.pattern is Pattern.CS:
            weights = weights.tril()
        return weights / weights.sum(-1, keepdim=True) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count features, sums and the products with them, in CS also those inside chunks; ones are a column of v."""
        if self.slot.pattern is not Pattern.CS:
            return self.flops_needed(n, m)
        sums = causal_linear_flops(n, self.count, self.slot.values + 1, self.chunk)
        return self.slot.heads * (sums + 2.0 * (n + m) * self.features * self.slot.dim)

    def flops_needed(self, n: int, m: int) -> float:
        """Count the features of each token, and one product with the sums for each key and each query."""
        per_token = self.features * self.slot.dim + self.count * (self.slot.values + 1)
        return 2.0 * self.slot.heads * (n + m) * per_token

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the sums over the source (CC), or before the first token (CS), in float32 at least."""
        k, v = self._key_features(k, key_mask), self._values_and_ones(v, key_mask)
        with full_precision(v.device.type):
            if self.kernel == "relu":
                return outer_sum(k.to(at_least_float32(k)), v.to(at_least_float32(v)))
            return sum_keys(k, v) if k.shape[2] else empty_sums(self.count, v)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Multiply the queries with the sums (CC), to which in CS the tokens up to each query are added."""
        if k is None or v is None:
            return self._read(q, state), state
        phi_q, phi_k = self._feature_map(q), self._key_features(k, key_mask)
        v = self._values_and_ones(v, key_mask)
        with full_precision(v.device.type):
            if self.kernel == "relu":
                phi_q, phi_k, v = (t.to(state.dtype) for t in (phi_q, phi_k, v))
                out = phi_q @ state + causal_linear(phi_q, phi_k, v, self.chunk)
                state = updated_state(state, phi_k, v)
            else:
                out, state = causal_sums(phi_q, phi_k, v, self.chunk, FeatureSums(*state))
        return normalise(out).to(q.dtype), state

    def _relu_sums(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the weighted sums of the values and, in the last column, of ones, in the dtype of the features."""
        device = v.device.type
        if self.slot.pattern is Pattern.CS:
            q, k, v = summation_operands(
                self._feature_map(q), self._key_features(k, key_mask), self._values_and_ones(v, key_mask)
            )
            with full_precision(device):
                return causal_linear(q, k, v, self.chunk)
        k, v = summation_operands(self._key_features(k, key_mask), self._values_and_ones(v, key_mask))
        with full_precision(device):
            state = outer_sum(k, v)
        del k, v  # frees memory for the queries' features
        (q,) = summation_operands(self._feature_map(q))
        with full_precision(device):
            return q @ state

    def _feature_map(self, x: Tensor, keys: bool = False) -> Tensor:
        """Return phi(x) of the ReLU kernel, or the logarithm of phi(x), in float32 at least, since it is an exponent.

        What is computed from logarithms stays in float32, under autocast too: the gradient of a mean is a difference of
        sums. A query's |x|^2 / 2 is left out: it is the same in all of its weights, and the normaliser cancels it.
        """
        if self.kernel == "relu":
            x = x * self.slot.dim**-0.25
            return (x @ self.directions.to(x.dtype).T if self.features else x).relu() + RELU_EPSILON
        x = x.to(at_least_float32(x)) * self.slot.dim**-0.25
        with full_precision(x.device.type):
            products = x @ self.directions.to(x.dtype).T
        return products.add_(x.square().sum(-1, keepdim=True) * -0.5) if keys else products

    def _key_features(self, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the keys' features, zero where masked, or their logarithms, `FLOOR` where masked."""
        phi_k = self._feature_map(k, keys=True)
        if key_mask is None:
            return phi_k
        return phi_k.masked_fill(~key_mask[:, None, :, None], 0.0 if self.kernel == "relu" else FLOOR)

    def _values_and_ones(self, v: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return v with a column of ones, in the dtype of the keys' features, zero where masked."""
        v = F.pad(v if self.kernel == "relu" else v.to(at_least_float32(v)), (0, 1), value=1.0)
        return v if key_mask is None else v.masked_fill(~key_mask[:, None, :, None], 0.0)

    def _read(self, q: Tensor, state: Any) -> Tensor:
        """Multiply the queries' features with the sums, and normalise."""
        with full_precision(q.device.type):
            if self.kernel == "relu":
                out = self._feature_map(q).to(state.dtype) @ state
            else:
                out = read_sums(self._feature_map(q), FeatureSums(*state))
        return normalise(out).to(q.dtype)
