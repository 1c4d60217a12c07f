"""Differential attention (Ye et al., arXiv 2410.05258): the difference of two softmax maps, which cancels their noise.

Each head's q and k are cut into halves, [q1; q2] and [k1; k2], of dim / 2 channels (equations 1 to 3):

    o = (1 - lambda_init) RMSNorm((softmax(q1 k1^T / sqrt(dim / 2)) - lambda softmax(q2 k2^T / sqrt(dim / 2))) v)
    lambda = exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init, lambda_init = 0.8 - 0.6 exp(-0.3 layer)

where layers count from 0. The four vectors l are shared by the heads, and so is the scale of the norm, which runs over
a head's values. Rotary positions turn each half by itself. A head here is the paper's: half as many of them, with twice
the channels, have the size of a layer of softmax attention. A row uses its own query and the keys that it may see, so
all four patterns are the paper's.
"""

from math import exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Pattern
from cab.ops.norms import rms_norm
from cab.ops.pairwise import Pairwise
from cab.ops.precision import full_precision, widened
from cab.ops.rotary import rotate
from cab.ops.softmax import repeat_heads, softmax_weights

EPS = 1e-5  # of the norm


class Differential(Pairwise):
    """Every query weighs every key twice, and reads with the difference of the weights."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 2410.05258"
    parity = "transformers (DiffLlama)"
    cost = "O(n m d)"
    grouped = True
    rotates = True

    def __init__(self, slot: Any) -> None:
        super().__init__(slot)
        if slot.dim % 2:
            raise ValueError(f"dim={slot.dim}: heads are cut into halves, so their size is even")
        self.initial, self.base = 0.8 - 0.6 * exp(-0.3 * slot.layer), None if slot.pattern.cross else slot.rotary
        self.vectors = nn.Parameter(0.1 * torch.randn(4, slot.dim // 2))  # l_q1, l_k1, l_q2, l_k2
        self.scale = nn.Parameter(torch.ones(slot.values))

    def keep(self, k: Tensor, v: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """Keep the halves of the key as two heads, rotated, and the value."""
        return self._halves(k, position), v

    def read(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Tensor | None, position: Tensor, **_: Any) -> Tensor:
        """Write both matrices of weights, and read once with their difference."""
        first, second = softmax_weights(self._halves(q, position), k, seen).chunk(2, 1)
        return self._normed((first - self._weight(first) * second) @ repeat_heads(v, self.slot.heads))

    def attend_sdpa(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Any = None, query_mask: Any = None) -> Tensor:
        """Read with each map by PyTorch's fused kernels, and take the difference of the results."""
        seen, (k, v) = self.seen(q, k, v, key_mask), self.keep_all(k, v)
        q = self._halves(q, torch.arange(q.shape[2], device=q.device))
        grouped = k.shape[1] != q.shape[1]
        out = F.scaled_dot_product_attention(q, k, torch.cat([v, v], 1), attn_mask=seen, enable_gqa=grouped)
        first, second = out.chunk(2, 1)
        return self._normed(first - self._weight(first) * second)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Equations 1 to 3, head by head, each exponential written out."""
        half, rows = self.slot.dim // 2, []
        l_q1, l_k1, l_q2, l_k2 = self.vectors
        initial = 0.8 - 0.6 * exp(-0.3 * self.slot.layer)
        weight = (l_q1 @ l_k1).exp() - (l_q2 @ l_k2).exp() + initial
        for head in range(self.slot.heads):
            key_head, maps = head * k.shape[1] // self.slot.heads, []
            for part in (slice(half), slice(half, None)):
                one_q = rotate(q[:, head, :, part], torch.arange(q.shape[2], device=q.device), self.base)
                one_k = rotate(k[:, key_head, :, part], torch.arange(k.shape[2], device=q.device), self.base)
                scores = (one_q @ one_k.mT / half**0.5).exp()
                scores = scores.tril() if self.slot.pattern is Pattern.CS else scores
                maps.append(scores / scores.sum(-1, keepdim=True))
            out = (maps[0] - weight * maps[1]) @ v[:, key_head]
            out = out / ((out**2).mean(-1, keepdim=True) + EPS) ** 0.5 * self.scale
            rows.append((1 - initial) * out)
        return torch.stack(rows, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two maps of half the channels, and one reading of the values; two with fused kernels."""
        reads = 2 if backend == "sdpa" else 1
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + reads * self.slot.values)

    def _halves(self, t: Tensor, position: Tensor) -> Tensor:
        """Return both halves as heads of their own, first those of map 1: (batch, 2 heads, length, dim / 2)."""
        return rotate(torch.cat(t.chunk(2, -1), 1), position, self.base)

    def _weight(self, like: Tensor) -> Tensor:
        """Return lambda; it is a difference of exponentials, hence computed in float32."""
        with full_precision(like.device.type):
            l_q, l_k = widened(self.vectors).unflatten(0, (2, 2)).unbind(1)
            first, second = (l_q * l_k).sum(-1).exp()
            return (first - second + self.initial).to(like.dtype)

    def _normed(self, out: Tensor) -> Tensor:
        return (1 - self.initial) * rms_norm(out, self.scale, EPS)
