"""Token pooling attention (Guo et al., arXiv 2303.11126): softmax attention over tokens mixed with their neighbours.

    x'_i = sum_k w_ik pool_k(x)_i over k = 0, ..., pools - 1,   w_i = softmax(conv(norm(conv(x)))_i)

pool_0 is the token itself, pool_k the mean of the tokens that lie -k, 0 or k away along each axis. Both convolutions
are 3 wide. Attention follows on x'. Here q, k and v are pooled in place of x: as the weights of a mean add up to one,
pooling and the layer's projections may change places. So a mean is of the neighbours that there are, where the authors
count zeros beyond a border. They pool before the norm of the block, which comes first here. Their batch norm, which
mixes samples, is an RMS norm over channels. Rotary positions turn a token before it is pooled.

In training `aux_loss` is `diversify` times mean_i cos(A'_i, mean_j A_j): A_i are the weights of row i, averaged over
heads, and A'_i is A_i without those below 2 / (number of keys that i sees). It is large where rows look at the same
keys. (The authors' code cuts the mean as well.)

- NS is the paper's on an image; on a sequence it is ours.
- CS is ours: neighbours lie 0, k or 2 k back, and convolutions look back.
- NC and CC are ours: the source is pooled, the queries stay.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.norms import rms_norm
from cab.ops.precision import widened
from cab.ops.raster_places import places
from cab.ops.softmax import repeat_heads, softmax_weights, visible

EPS = 1e-5  # of the norm


class Tap(Mechanism):
    """Every token mixes its neighbourhoods, of several sizes, before it attends."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1,)},)
    paper = "arXiv 2303.11126"
    titles = ("Robustifying Token Attention for Vision Transformers",)
    cost = "O(n m d)"
    inputs = {"y": ("keys", "real", "width")}
    rasters = {"NS": (1, 2), "NC": (1, 2), "CC": (1, 2)}
    grouped = True
    accepts = {"pools": ">= 1"}
    checks = ({"pools": 3}, {"pools": 2, "diversify": 0.0})
    limits = ({"params": {"pools": 1}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, pools: int = 4, diversify: float = 1.0) -> None:
        super().__init__(slot)
        self.pools, self.diversify, self.back = pools, diversify, 2 if slot.pattern is Pattern.CS else 1
        self.raster = slot.source_raster or (-1,)
        if pools > 1:
            conv = nn.Conv2d if len(self.raster) == 2 else nn.Conv1d
            self.first, self.last = (conv(size, pools, 3, bias=False) for size in (slot.tokens, pools))
            self.scale = nn.Parameter(torch.ones(pools))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None, *, y: Tensor
    ) -> Tensor:
        """Pool, and write the whole (queries, keys) matrix of weights."""
        if self.pools > 1:
            real = torch.ones_like(y[..., :1]) if key_mask is None else key_mask.unsqueeze(-1).to(y.dtype)
            share = self._shares(y, real).softmax(-1).unsqueeze(1)
            k, v = (self._pooled(t, share, real.unsqueeze(1)) for t in (k, v))
            q = q if self.slot.pattern.cross else self._pooled(q, share, real.unsqueeze(1))
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        weights = softmax_weights(q, k, seen)
        if self.training and self.diversify:
            self.aux_loss = self.diversify * similarity(weights, seen, query_mask)
        return weights @ repeat_heads(v, self.slot.heads)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None, *, y: Tensor
    ) -> Tensor:
        """One sample, with a matrix for each offset of a neighbour."""
        real = torch.ones(k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask[0]

        def convolved(t: Tensor, conv: nn.Module) -> Tensor:
            return sum(near @ t @ tap.T for near, tap in zip(nearest, conv.weight.flatten(2).unbind(-1), strict=True))

        if self.pools > 1:
            nearest = self._neighbours(1, real, y)
            hidden = convolved(y[0], self.first)
            share = convolved(hidden / ((hidden**2).mean(-1, keepdim=True) + EPS) ** 0.5 * self.scale, self.last)
            mix = torch.diag(share.softmax(-1)[:, 0])
            for step in range(1, self.pools):
                near = sum(self._neighbours(step, real, y))
                mix = mix + share.softmax(-1)[:, step, None] * near / near.sum(-1, keepdim=True).clamp(min=1)
            q, k, v = q if self.slot.pattern.cross else mix @ q, mix @ k, mix @ v
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        weights = (q @ k.mT / self.slot.dim**0.5).exp() * real
        weights = weights.tril() if self.slot.pattern is Pattern.CS else weights
        return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count both convolutions, and two products over all n m pairs; means are sums."""
        conv = m * 3 ** len(self.raster) * self.pools * (self.slot.tokens + self.pools) * (self.pools > 1)
        return 2.0 * (conv + self.slot.heads * n * m * (self.slot.dim + self.slot.values))

    def flops_needed(self, n: int, m: int) -> float:
        """In causal self attention, count the pairs on and below the diagonal alone."""
        unseen = n * (n - 1) // 2 if self.slot.pattern is Pattern.CS else 0
        return self.flops(n, m) - 2.0 * self.slot.heads * unseen * (self.slot.dim + self.slot.values)

    def _shares(self, y: Tensor, real: Tensor) -> Tensor:
        """Score each pool for each token, (batch, m, pools). Masked tokens are zeros, as what is beyond a border."""
        hidden = rms_norm(self._convolved(self.first, y * real), self.scale, EPS)
        return self._convolved(self.last, hidden * real)

    def _convolved(self, conv: nn.Module, t: Tensor) -> Tensor:
        """Convolve t (batch, m, channels)."""
        t = t.transpose(1, 2).unflatten(2, self.raster)
        out: Tensor = conv(F.pad(t, [self.back, 2 - self.back] * len(self.raster)))
        return out.flatten(2).transpose(1, 2)

    def _pooled(self, t: Tensor, share: Tensor, real: Tensor) -> Tensor:
        """Mix t (batch, heads, m, size) with its neighbours, in shares (batch, 1, m, pools)."""
        out = share[..., :1] * t
        for step in range(1, self.pools):
            mean = self._summed(t * real, step) / self._summed(real, step).clamp(min=1)
            out = out + share[..., step : step + 1] * mean
        return out

    def _summed(self, t: Tensor, step: int) -> Tensor:
        """Add up three neighbours along each axis."""
        t = t.unflatten(2, self.raster)
        for axis in range(2, 2 + len(self.raster)):
            length, sides = t.shape[axis], [self.back * step, (2 - self.back) * step]
            padded = F.pad(t, [0, 0] * (t.dim() - 1 - axis) + sides)
            t = sum(padded.narrow(axis, start, length) for start in (0, step, 2 * step))
        return t.flatten(2, -2)

    def _neighbours(self, step: int, real: Tensor, like: Tensor) -> list[Tensor]:
        """Return a matrix (m, m) for each offset: 1 where a token's neighbour there is a real token."""
        place = places(self.raster if len(self.raster) == 2 else real.shape, real.device)
        offsets = torch.tensor(list(product([-self.back, 1 - self.back, 2 - self.back], repeat=len(self.raster))))
        return [((place == (place + o)[:, None]).all(-1) & real).to(like) for o in step * offsets.to(place)]


def similarity(weights: Tensor, seen: Tensor | None, query_mask: Tensor | None) -> Tensor:
    """Return the mean cosine of the rows' large weights with the mean row, over real rows, heads averaged."""
    rows = widened(weights).mean(1)
    real = torch.ones_like(rows[..., :1]) if query_mask is None else query_mask.unsqueeze(-1).to(rows.dtype)
    count = rows.shape[-1] if seen is None else seen.view(-1, *seen.shape[-2:]).sum(-1, keepdim=True).clamp(min=1)
    large = rows.where(rows >= 2 / count, 0.0)
    mean = (rows * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    squares = large.square().sum(-1, keepdim=True) * mean.square().sum(-1, keepdim=True)
    cosine = (large * mean).sum(-1, keepdim=True) / squares.clamp(min=1e-30).sqrt()
    return (cosine * real).sum() / real.sum().clamp(min=1)
