"""Gaussian adaptive attention (Ioannides et al., arXiv 2401.11143): values weigh by how they lie in their own spread.

Along an axis with mean mu and variance s of the values x, and with `gaussians` learned offsets d_g and widths c_g of
each head,

    y_i = w_i x_i,   w = softmax of -sum_g (x_i - mu - d_g)^2 / (2 c_g^2 (s + 1e-8)) along the axis.

This is the paper's normalised product of normal densities, whose factors before the exponents cancel. The authors'
package clamps the sum of the product at 1e-8, so that weights may sum to less than one; here they sum to one. s is the
unbiased variance. There is no product of queries and keys.

- axis=tokens: each channel of a head for itself, over the tokens. NS: native, though the authors may cut the tokens
  into heads. CS (ours): mu and s are those of the tokens up to each one, and so is the sum of the weights. The exponent
  of the first token, which has no variance, is 0.
- axis=features: each token for itself, over the channels of a head. Native in NS and CS; tokens are not mixed.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.precision import at_least_float32
from cab.ops.softmax import FLOOR, masked_softmax

EPS = 1e-8  # beside the variance


class Gaussian(Mechanism):
    """Values gated by a product of normal densities around their own mean."""

    patterns = {"NS": "native", "CS": "native"}
    ours = ({"axis": "tokens", "patterns": ["CS"]},)
    refuses = {
        "NC": "it has no queries: each output stands where its value stands",
        "CC": "it has no queries: each output stands where its value stands",
    }
    paper = "arXiv 2401.11143"
    cost = "O(n D g)"
    parity = "gaussian-adaptive-attention"
    titles = (
        "Gaussian Adaptive Attention is All You Need: Robust Contextual Representations Across Multiple Modalities",
    )
    reads = "v"
    rasters = {"NS": (1, 2, 3)}
    accepts = {"gaussians": ">= 1", "axis": ("tokens", "features")}
    checks = ({}, {"axis": "features", "gaussians": 3})
    exempt = {"use:v": "with axis=features a token is gated by its own channels alone"}

    def __init__(self, slot: Any, *, gaussians: int = 2, axis: str = "tokens") -> None:
        super().__init__(slot)
        self.axis = axis
        self.offset = nn.Parameter(torch.zeros(slot.heads, gaussians))
        self.width = nn.Parameter(torch.randn(slot.heads, gaussians).exp())

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Weigh each channel over the tokens, or each token over its channels."""
        assert key_mask is not None  # always given where q is not read
        if self.slot.pattern is Pattern.CS:
            return self.step(self.init_state(None, v[:, :, :0]), None, None, v, key_mask)[0]
        x = v.to(at_least_float32(v))
        if self.axis == "features":
            return self._of_features(x).to(v.dtype)
        real = key_mask[:, None, :, None]
        count = key_mask.sum(1)[:, None, None, None]
        mean = x.masked_fill(~real, 0.0).sum(2, keepdim=True) / count.clamp(min=1)
        squares = (x - mean).masked_fill(~real, 0.0).square().sum(2, keepdim=True)
        logits = self._logits(x - mean, squares / (count - 1).clamp(min=1)).transpose(2, 3)
        return (x * masked_softmax(logits, real.transpose(2, 3)).transpose(2, 3)).to(v.dtype)

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Multiply the densities' exponents out, one series of values after the other."""
        real = torch.ones(v.shape[2], dtype=torch.bool, device=v.device) if key_mask is None else key_mask[0]
        x, out = v[0, :, real].to(at_least_float32(v)), torch.zeros_like(v)
        for head, (offsets, widths) in enumerate(zip(self.offset, self.width, strict=True)):
            axis = 0 if self.axis == "tokens" else 1

            def exponents(x: Tensor, axis: int = axis, offsets: Tensor = offsets, widths: Tensor = widths) -> Tensor:
                if x.shape[axis] == 1:
                    return torch.zeros_like(x)
                variance = x.var(axis, keepdim=True)
                z = (x - x.mean(axis, keepdim=True)).unsqueeze(-1) - offsets
                return -(z**2 / (2 * widths**2 * (variance + EPS).unsqueeze(-1))).sum(-1)

            if axis == 0 and self.slot.pattern is Pattern.CS:
                own = torch.stack([exponents(x[head, : i + 1])[i] for i in range(x.shape[1])])
                weights = torch.stack([own[: i + 1].softmax(0)[i] for i in range(x.shape[1])])
            else:
                weights = exponents(x[head]).softmax(axis) if real.any() else x[head]
            out[0, head, real] = (weights * x[head]).to(v.dtype)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Return 0: nothing is multiplied but entry by entry."""
        return 0.0

    def init_state(self, k: None, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return a count, the sum, the sum of squared deviations and the log-sum of the weights: of no token."""
        total = v.sum(2, keepdim=True, dtype=at_least_float32(v))
        count = torch.zeros(len(v), 1, 1, 1, dtype=total.dtype, device=v.device)
        return count, total, torch.zeros_like(total), torch.full_like(total, FLOOR)

    def step(
        self, state: Any, q: None, k: None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Continue the statistics over the new tokens (Welford, 1962); with axis=features there are none."""
        assert v is not None  # CC is refused
        count, total, squares, log_sum = state
        x = v.to(total.dtype)
        if self.axis == "features":
            return self._of_features(x).to(v.dtype), state
        real = torch.ones_like(x[:, :1, :, :1], dtype=torch.bool)
        real = real if key_mask is None else key_mask[:, None, :, None]
        counts, totals = count + real.cumsum(2), total + x.masked_fill(~real, 0.0).cumsum(2)
        centred, before = x - totals / counts.clamp(min=1), x - (totals - x) / (counts - 1).clamp(min=1)
        squares = squares + (centred * before).masked_fill(~real, 0.0).cumsum(2)
        logits = self._logits(centred, squares / (counts - 1).clamp(min=1))
        logits = logits.masked_fill(counts < 2, 0.0).masked_fill(~real, FLOOR)
        sums = torch.cat([log_sum, logits], 2).logcumsumexp(2)[:, :, 1:]
        out = (x * (logits - sums).exp()).masked_fill(~real, 0.0)
        return out.to(v.dtype), (counts[:, :, -1:], totals[:, :, -1:], squares[:, :, -1:], sums[:, :, -1:])

    def _of_features(self, x: Tensor) -> Tensor:
        centred = x - x.mean(3, keepdim=True)
        variance = centred.square().sum(3, keepdim=True) / max(x.shape[3] - 1, 1)
        return x * self._logits(centred, variance).softmax(3)

    def _logits(self, centred: Tensor, variance: Tensor) -> Tensor:
        """Return the exponents of the product of densities, from values less their mean."""
        logits = torch.zeros_like(centred)
        for offset, width in zip(self.offset.unbind(1), self.width.unbind(1), strict=True):
            offset, width = (t.to(centred.dtype)[:, None, None] for t in (offset, width))
            logits = logits - (centred - offset).square() / (2 * width.square() * (variance + EPS))
        return logits
