"""Rank-augmented linear attention, RALA (Fan et al., arXiv 2411.07635): keys weigh as the mean query likes them.

With phi(x) = elu(x) + 1 and the mean query g = mean_i phi(q_i), weights alpha and outputs are

    alpha = softmax_j(g . phi(k_j) / sqrt(dim))
    y_i = sum_j alpha_j (R_i phi(q_i) . R_j phi(k_j)) v_j / sum_j alpha_j phi(q_i) . phi(k_j)
    o_i = (y_i + conv(v)_i) * (W x_i)

R turns pairs of channels by the token's place: on images half of the channels by its row, half by its column. It turns
nothing where the slot has no rotary base. conv is depth-wise, over `conv` places along each axis. The authors multiply
alpha by the number of keys, which cancels, and add 1e-6 to the mean of the denominator, which is left out. Their conv
has a bias, and ours has none.

- NS: native on images; sequences, of which all channels turn by the place, are ours. NC: native, with the mean of the
  target's queries. Queries have no place in the source there, so nothing is turned, and no value stands at a query for
  conv.
- CS and CC (ours): the mean query holds later queries, so g is a learned vector for each head. In CS the softmax runs
  over the tokens up to the query's own, and conv over the last `conv` values.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.channels import heads_of
from cab.ops.feature_maps import elu_plus_one
from cab.ops.gated import gated_flops, gated_linear
from cab.ops.means import masked_mean
from cab.ops.precision import at_least_float32, full_precision, widened
from cab.ops.prefix import divide_by_weights, outer_sum
from cab.ops.raster_convolution import RasterConvolution
from cab.ops.raster_places import places
from cab.ops.rotary import rotate
from cab.ops.short_convolution import ShortConvolution
from cab.ops.softmax import FLOOR, masked_softmax

Mask = Tensor | None


class Rala(Mechanism):
    """Linear attention whose state is a weighted sum, and whose output is gated by the token."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    paper = "arXiv 2411.07635"
    ours = ({"axes": (1,), "patterns": ["NS"]},)
    cost = "O((n + m) d^2)"
    titles = ("Breaking the Low-Rank Dilemma of Linear Attention",)
    inputs = {"x": ("queries", "real", "width")}
    rasters = {"NS": (1, 2), "NC": (1, 2)}
    rotates = True
    accepts = {"conv": "0 or odd, >= 1", "chunk": "power of two"}
    checks = ({"chunk": 4}, {"conv": 3, "chunk": 16}, {"conv": 0})

    def __init__(self, slot: Any, *, conv: int = 5, chunk: int = 64) -> None:
        super().__init__(slot)
        self.chunk, self.raster = chunk, slot.raster or (slot.max_len,)
        self.base = None if slot.pattern.cross else slot.rotary
        self.gate = nn.Linear(slot.tokens, slot.heads * slot.values)
        if slot.pattern.causal:
            self.query = nn.Parameter(torch.randn(slot.heads, 1, slot.dim))
        self.conv: RasterConvolution | ShortConvolution | None = None
        if conv and slot.pattern is Pattern.NS:
            self.conv = RasterConvolution(slot.heads, slot.values, conv, len(self.raster))
        elif conv and slot.pattern is Pattern.CS:
            self.conv = ShortConvolution(slot.heads, slot.values, conv)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None, *, x: Tensor
    ) -> Tensor:
        """Sum the weighted keys once (NS, NC, CC), or over prefixes in chunks (CS)."""
        if self.slot.pattern is Pattern.CS:
            return self.step(self.init_state(k[:, :, :0], v[:, :, :0], x=x), q, k, v, key_mask, x=x)[0]
        q = elu_plus_one(q)
        query = self.query if self.slot.pattern.causal else masked_mean(q, query_mask)
        out = self._read(q, self._sums(query, elu_plus_one(k), v, key_mask))
        if isinstance(self.conv, RasterConvolution):
            out = out + self.conv(v, self._raster(v), key_mask)
        return self._gated(out, x)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None, *, x: Tensor
    ) -> Tensor:
        """Write every weight, with the matrix of alpha: its rows are equal, but in CS."""
        if key_mask is not None and not key_mask.any():
            return torch.zeros_like(q[..., :1]).expand(-1, -1, -1, self.slot.values)
        q, k = (torch.where(t > 0, t + 1, t.exp()) for t in (q, k))
        asks, real = (
            torch.ones(t.shape[2], dtype=torch.bool, device=t.device) if mask is None else mask[0]
            for t, mask in ((q, query_mask if self.slot.pattern.cross else key_mask), (k, key_mask))
        )
        seen = real.expand(q.shape[2], -1)
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        query = self.query if self.slot.pattern.causal else q[:, :, asks].mean(2, keepdim=True)
        alpha = masked_softmax((query @ k.mT / self.slot.dim**0.5).expand(-1, -1, q.shape[2], -1), seen)
        total = (alpha * (q @ k.mT)).sum(-1, keepdim=True)
        out = (alpha * (self._turned(q) @ self._turned(k).mT) / total.where(total > 0, 1.0)) @ v
        if isinstance(self.conv, RasterConvolution):
            out = out + self.conv.definition(v, self._raster(v), key_mask)
        elif self.conv is not None:
            out = out + self.conv(v)
        return out * heads_of(x @ self.gate.weight.mT + self.gate.bias, self.slot.heads)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count scores, states and their reading, in CS the products inside chunks too; convolution and gate."""
        dim, size = self.slot.dim, self.slot.values
        if self.slot.pattern is not Pattern.CS:
            return self.flops_needed(n, m)
        sums = sum(gated_flops(n, dim, columns, self.chunk) for columns in (size, 1)) + 2.0 * n * dim
        return self.slot.heads * sums + self._outer_flops(n)

    def flops_needed(self, n: int, m: int) -> float:
        """Count one addition of each key to the state, and one read of each query; convolution and gate."""
        return 2.0 * self.slot.heads * (n + m) * self.slot.dim * (self.slot.values + 1) + self._outer_flops(n)

    def _outer_flops(self, n: int) -> float:
        kernel = 0 if self.conv is None else self.conv.kernel.numel()
        return 2.0 * n * (self.gate.weight.numel() + kernel)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None, *, x: Tensor | None = None) -> Any:
        """Sum over the source (CC); or begin with empty sums, the largest score, a count and the last values (CS)."""
        if self.slot.pattern.cross:
            return self._sums(self.query, elu_plus_one(k), v, key_mask)
        dtype, (batch, heads, _, dim) = at_least_float32(v), k.shape
        sums = [torch.zeros(batch, heads, dim, size, dtype=dtype, device=v.device) for size in (v.shape[3], 1)]
        largest = torch.full((batch, heads, 1, 1), FLOOR, dtype=dtype, device=v.device)
        count = torch.zeros(batch, 1, dtype=torch.long, device=v.device)
        return *sums, largest, count, self.conv.init_state(v) if isinstance(self.conv, ShortConvolution) else v

    def step(
        self, state: Any, q: Tensor, k: Mask = None, v: Mask = None, key_mask: Mask = None, *, x: Tensor
    ) -> tuple[Tensor, Any]:
        """Read the sums (CC), or continue them: they fade by what the largest score grows (CS)."""
        dtype, q = q.dtype, elu_plus_one(q)
        if k is None or v is None:
            return self._gated(self._read(q, state), x), state
        sums, total, largest, count, last = state
        real = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        position = count + real.cumsum(1) - 1
        k = elu_plus_one(k)
        scores = self._scores(self.query, k).mT.masked_fill(~real[:, None, :, None], FLOOR)
        largest = torch.cat([largest, scores.detach()], 2).cummax(2).values
        weight = (scores - largest[:, :, 1:]).exp().masked_fill(~real[:, None, :, None], 0.0)
        # before the first token nothing can fade
        fading = (largest[:, :, :-1] - largest[:, :, 1:]).where(largest[:, :, :-1] > FLOOR / 2, 0.0)
        wide = [t.to(sums.dtype) for t in (q, k, v)]
        turned = [self._turned(t, position) for t in wide[:2]]
        ones = torch.ones_like(wide[2][..., :1])
        out, sums = gated_linear(turned[0], turned[1] * weight, wide[2], fading, sums, self.chunk)
        share, total = gated_linear(wide[0], wide[1] * weight, ones, fading, total, self.chunk)
        out = divide_by_weights(out, share).to(dtype)
        if isinstance(self.conv, ShortConvolution):
            near, last = self.conv.step(v.masked_fill(~real[:, None, :, None], 0.0), last, key_mask)
            out = out + near
        return self._gated(out, x), (sums, total, largest[:, :, -1:], count + real.sum(1, keepdim=True), last)

    def _scores(self, query: Tensor, k: Tensor) -> Tensor:
        """Score the keys, (batch, heads, 1, m), in float32 at least, as exponents."""
        with full_precision(k.device.type):
            return (widened(query) * self.slot.dim**-0.5) @ widened(k).mT

    def _sums(self, query: Tensor, k: Tensor, v: Tensor, key_mask: Mask) -> tuple[Tensor, Tensor]:
        """Return the sums of keys times values and of keys, (batch, heads, dim, size) and (batch, heads, dim, 1)."""
        seen = None if key_mask is None else key_mask[:, None, None, :]
        alpha = masked_softmax(self._scores(query, k), seen).mT
        with full_precision(v.device.type):
            k, turned = k * alpha, self._turned(k) * alpha
            return outer_sum(turned, v.to(turned.dtype)), k.sum(2).unsqueeze(3)

    def _read(self, q: Tensor, sums: tuple[Tensor, Tensor]) -> Tensor:
        wide = sums[0].dtype
        with full_precision(q.device.type):
            return divide_by_weights(self._turned(q).to(wide) @ sums[0], q.to(wide) @ sums[1]).to(q.dtype)

    def _turned(self, t: Tensor, position: Mask = None) -> Tensor:
        """Turn pairs of channels by the token's position, or halves of the channels by its row and its column."""
        if len(self.raster) == 1 or self.base is None:
            return rotate(t, torch.arange(t.shape[2], device=t.device) if position is None else position, self.base)
        of_axes = zip(t.tensor_split(2, -1), places(self.raster, t.device).unbind(1), strict=True)
        return torch.cat([rotate(half, place, self.base) for half, place in of_axes], -1)

    def _raster(self, t: Tensor) -> tuple[int, ...]:
        return self.raster if len(self.raster) > 1 else (t.shape[2],)

    def _gated(self, out: Tensor, x: Tensor) -> Tensor:
        return (out * heads_of(self.gate(x), self.slot.heads)).to(out.dtype)
