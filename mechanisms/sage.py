"""SageAttention (arXiv 2410.02367) and SageAttention2 (arXiv 2411.10958): softmax attention of rounded tensors.

Before softmax(q k^T / sqrt(dim)) v, q and k are rounded to INT8, INT4 or FP8, with one scale for a block of tokens, the
largest entry over the largest number of the format. What is common to all keys makes that scale coarse, so their mean
is taken off first, which changes no softmax (`smooth=k`). With `smooth=qk` (SageAttention2) queries lose the mean of
their block, too, and its product with the keys is added unrounded. The unnormalised weights, at most 1 a row, and v,
with a scale for each channel, are rounded to FP8 (E4M3).

The rounding is simulated in floating point: it shows the error, and saves no time. It is simulated in float64 where the
device has it: among many entries some lie so near the middle of two numbers that the last bit of float32, which differs
with the order of a sum, decides, and an output then moves by a thousandth. Gradients pass rounding unchanged.

- NS and NC are the papers'.
- A scale or mean of several queries depends on later ones, so in CS and CC each query has a scale of its own.
- CS (ours): so do keys and values, where the authors' kernels take all tokens' means and scales. A key loses the mean
  of the keys before its group, whose product with the queries is added unrounded. Groups begin at 0, 1, 2, 4, ... and
  then at every block.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Unsupported
from cab.ops.means import masked_mean
from cab.ops.pairwise import Pairwise
from cab.ops.precision import full_precision
from cab.ops.ragged import zero_masked
from cab.ops.rounding import rounded
from cab.ops.softmax import masked_softmax, repeat_heads
from cab.ops.sorting import block_means


class Sage(Pairwise):
    """Softmax attention whose products are of 8 and 4 bits."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    paper = "arXiv 2411.10958"
    titles = ("SageAttention2 Technical Report: Accurate 4 Bit Attention for Plug-and-play Inference Acceleration",)
    cost = "O(n m d)"
    grouped = True
    accepts = {
        "qk": ("int8", "int4", "fp8", "exact"),
        "pv": ("fp8", "exact"),
        "smooth": ("none", "k", "qk"),
        "query_block": ">= 1",
        "key_block": ">= 1",
    }
    checks = (
        {"query_block": 4, "key_block": 8},
        {"qk": "int4", "smooth": "qk", "query_block": 8, "key_block": 4, "patterns": ["NS", "NC"]},
        {"qk": "fp8", "pv": "exact", "smooth": "none"},
    )
    limits = (
        {"params": {"qk": "exact", "pv": "exact", "key_block": 8}, "equals": "softmax"},
        {"params": {"qk": "exact", "pv": "exact", "smooth": "qk"}, "equals": "softmax", "patterns": ["NS", "NC"]},
    )

    def __init__(
        self,
        slot: Any,
        *,
        qk: str = "int8",
        pv: str = "fp8",
        smooth: str = "k",
        query_block: int = 32,
        key_block: int = 64,
    ) -> None:
        super().__init__(slot)
        if smooth == "qk" and slot.pattern.causal:
            raise Unsupported("smooth=qk in a causal pattern: the mean of a block of queries depends on later ones")
        self.qk, self.pv, self.smooth, self.query_block, self.key_block = qk, pv, smooth, query_block, key_block
        self.query_rows = 1 if slot.pattern.causal else query_block  # tokens that share a scale
        self.key_rows = 1 if self.past_only else key_block

    def read(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Any, query_mask: Any, **_: Any) -> Tensor:
        """Round, and attend."""
        dtype, real = v.dtype, None if seen is None or self.past_only else seen[:, 0, 0]
        q, k, v = zero_masked(_wide(q), query_mask), zero_masked(_wide(k), real), zero_masked(_wide(v), real)
        q, k, v = q * self.slot.dim**-0.5, repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        unrounded: Any = 0.0
        with full_precision(q.device.type):
            if self.smooth != "none":
                means, group = self._key_means(k.detach(), real)
                k, unrounded = zero_masked(k - means[:, :, group], real), (q @ means.mT)[..., group]
            if self.smooth == "qk":
                means = block_means(q.detach(), query_mask, self.query_block)
                group = torch.arange(q.shape[2], device=q.device) // self.query_block
                q, unrounded = zero_masked(q - means[:, :, group], query_mask), unrounded + (means @ k.mT)[:, :, group]
            scores = rounded(q, self.qk, self.query_rows) @ rounded(k, self.qk, self.key_rows).mT
            weights = rounded(masked_softmax(scores + unrounded, seen), self.pv)
            v = rounded(v, self.pv) if self.past_only else rounded(v.mT, self.pv).mT
            return (weights @ v).to(dtype)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Take the means off, and round block by block (`cab.ops.rounding`)."""
        dtype, m = v.dtype, k.shape[2]
        q, k, v = _wide(q) / self.slot.dim**0.5, _wide(k), _wide(v)
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        mean_q, mean_k = torch.zeros_like(q), torch.zeros_like(k)
        if self.smooth != "none":
            for j in range(m):
                start = j // self.key_block * self.key_block or (2 ** (j.bit_length() - 1) if j else 0)
                stop = start if self.past_only else m
                mean_k[:, :, j] = k[:, :, :stop].detach().sum(2) / max(stop, 1)
        if self.smooth == "qk":
            mean_q = torch.cat([t.mean(2, keepdim=True).expand_as(t) for t in q.detach().split(self.query_block, 2)], 2)

        def by_blocks(t: Tensor, form: str, tokens: int = 1) -> Tensor:
            return torch.cat([rounded(block, form, tokens) for block in t.split(tokens, 2)], 2)

        smooth_k = k - mean_k
        scores = by_blocks(q - mean_q, self.qk, self.query_rows) @ by_blocks(smooth_k, self.qk, self.key_rows).mT
        scores = scores + mean_q @ smooth_k.mT + q @ mean_k.mT
        if self.past_only:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), -torch.inf)
        weights = by_blocks(scores.softmax(-1), self.pv)
        return (weights @ (by_blocks(v, self.pv) if self.past_only else by_blocks(v.mT, self.pv).mT)).to(dtype)

    def own_flops(self, n: int, m: int) -> float:
        """Count what the means add to the scores."""
        means = n * len(self._groups(m)) if self.smooth != "none" else 0
        means += m * -(-n // self.query_block) if self.smooth == "qk" else 0
        return 2.0 * self.slot.heads * self.slot.dim * means

    def _key_means(self, k: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the means that keys lose, (batch, heads, groups, dim), and the group of each key, (m,)."""
        starts = torch.tensor(self._groups(k.shape[2]), device=k.device)
        group = torch.searchsorted(starts, torch.arange(k.shape[2], device=k.device), right=True) - 1
        if not self.past_only:
            return masked_mean(k, real), group
        return F.pad(k.cumsum(2)[:, :, starts[1:] - 1] / starts[1:, None], (0, 0, 1, 0)), group

    def _groups(self, m: int) -> list[int]:
        """Return where groups of keys begin that lose the same mean: in CS that of all keys before the group."""
        if not self.past_only:
            return [0]
        doubling = [2**i for i in range((self.key_block - 1).bit_length())]
        return [0, *(start for start in (*doubling, *range(self.key_block, m, self.key_block)) if start < m)]


def _wide(t: Tensor) -> Tensor:
    """Return t in float64, or in float32 where the device has no more."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)
