"""SageAttention (arXiv 2410.02367) and SageAttention2 (arXiv 2411.10958): softmax attention of rounded tensors.

Before softmax(q k^T / sqrt(dim)) v, q and k are rounded to INT8, INT4 or FP8, with one scale for a block of tokens, the
largest entry over the largest number of the format. What is common to all keys makes that scale coarse, so their mean
is taken off first, which changes no softmax (`smooth=k`). With `smooth=qk` (SageAttention2) queries lose the mean of
their block, too, and its product with the keys is added unrounded. The unnormalised weights, at most 1 a row, and v,
with a scale for each channel, are rounded to FP8 (E4M3).

The rounding is simulated in floating point: it shows the error, and saves no time. Gradients pass it unchanged.

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

from cab import Mechanism, Pattern, Unsupported
from cab.ops.cache import empty_cache, extend_cache, visible_in_cache
from cab.ops.means import masked_mean
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.ragged import zero_masked
from cab.ops.rounding import LARGEST, rounded
from cab.ops.softmax import masked_softmax, repeat_heads, visible
from cab.ops.sorting import block_means

Mask = Tensor | None


class Sage(Mechanism):
    """Softmax attention whose products are of 8 and 4 bits."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    paper = "arXiv 2411.10958"
    cost = "O(n m d)"
    grouped = True
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
        known = {"qk": (*LARGEST, "exact"), "pv": ("fp8", "exact"), "smooth": ("none", "k", "qk")}
        for name, value in (("qk", qk), ("pv", pv), ("smooth", smooth)):
            if value not in known[name]:
                raise ValueError(f"{name}={value!r}: one of {', '.join(known[name])}")
        if query_block < 1 or key_block < 1:
            raise ValueError(f"query_block={query_block}, key_block={key_block}: at least 1 token is needed")
        if smooth == "qk" and slot.pattern.causal:
            raise Unsupported("smooth=qk in a causal pattern: the mean of a block of queries depends on later ones")
        self.qk, self.pv, self.smooth, self.query_block, self.key_block = qk, pv, smooth, query_block, key_block
        self.query_rows = 1 if slot.pattern.causal else query_block  # tokens that share a scale
        self.key_rows = 1 if slot.pattern is Pattern.CS else key_block

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None) -> Tensor:
        """Round, and attend."""
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        return self._rounded_attention(q, k, v, seen, key_mask, query_mask)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Take the means off, and round block by block (`cab.ops.rounding`)."""
        causal_self, m = self.slot.pattern is Pattern.CS, k.shape[2]
        q = q / self.slot.dim**0.5
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        mean_q, mean_k = torch.zeros_like(q), torch.zeros_like(k)
        if self.smooth != "none":
            for j in range(m):
                start = j // self.key_block * self.key_block or (2 ** (j.bit_length() - 1) if j else 0)
                stop = start if causal_self else m
                mean_k[:, :, j] = k[:, :, :stop].detach().sum(2) / max(stop, 1)
        if self.smooth == "qk":
            mean_q = torch.cat([t.mean(2, keepdim=True).expand_as(t) for t in q.detach().split(self.query_block, 2)], 2)

        def by_blocks(t: Tensor, form: str, tokens: int = 1) -> Tensor:
            return torch.cat([rounded(block, form, tokens) for block in t.split(tokens, 2)], 2)

        smooth_k = k - mean_k
        scores = by_blocks(q - mean_q, self.qk, self.query_rows) @ by_blocks(smooth_k, self.qk, self.key_rows).mT
        scores = scores + mean_q @ smooth_k.mT + q @ mean_k.mT
        if causal_self:
            scores = scores.masked_fill(torch.ones_like(scores[0, 0]).triu(1).bool(), -torch.inf)
        weights = by_blocks(scores.softmax(-1), self.pv)
        return weights @ (by_blocks(v, self.pv) if causal_self else by_blocks(v.mT, self.pv).mT)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count attention, and what the means add to the scores."""
        return self._smoothing(n, m) + 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Leave out, in CS, the pairs above the diagonal."""
        pairs = n * (n + 1) / 2 if self.slot.pattern is Pattern.CS else n * m
        return self._smoothing(n, m) + 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None) -> Any:
        """Keep keys and values: of the source (CC), or of no token (CS)."""
        return extend_cache(empty_cache(k[:, :, :0], v[:, :, :0]), (k, v), key_mask)[0]

    def step(self, state: Any, q: Tensor, k: Mask = None, v: Mask = None, key_mask: Mask = None) -> tuple[Tensor, Any]:
        """Keep the new tokens (CS), and attend to all that are kept, rounded."""
        position = None
        if k is not None:
            state, position = extend_cache(state, (k, v), key_mask)
        real = visible_in_cache(state)[:, 0, 0]
        return self._rounded_attention(q, *state[0], visible_in_cache(state, position), real, None), state

    def _rounded_attention(
        self, q: Tensor, k: Tensor, v: Tensor, seen: Mask, key_mask: Mask, query_mask: Mask
    ) -> Tensor:
        dtype, n, causal_self = v.dtype, q.shape[2], self.slot.pattern is Pattern.CS
        q, k, v = (t.to(at_least_float32(t)) for t in (q, k, v))
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        q, k, v = zero_masked(q * self.slot.dim**-0.5, query_mask), zero_masked(k, key_mask), zero_masked(v, key_mask)
        unrounded: Any = 0.0
        with full_precision(q.device.type):
            if self.smooth != "none":
                means, group = self._key_means(k.detach(), key_mask)
                k = zero_masked(k - means[:, :, group], key_mask)
                unrounded = (q @ means.mT)[..., group]
            if self.smooth == "qk":
                means = block_means(q.detach(), query_mask, self.query_block)
                group = torch.arange(n, device=q.device) // self.query_block
                q = zero_masked(q - means[:, :, group], query_mask)
                unrounded = unrounded + (means @ k.mT)[:, :, group]
            scores = rounded(q, self.qk, self.query_rows) @ rounded(k, self.qk, self.key_rows).mT
            weights = rounded(masked_softmax(scores + unrounded, seen), self.pv)
            v = rounded(v, self.pv) if causal_self else rounded(v.mT, self.pv).mT
            return (weights @ v).to(dtype)

    def _key_means(self, k: Tensor, key_mask: Mask) -> tuple[Tensor, Tensor]:
        """Return the means that keys lose, (batch, heads, groups, dim), and the group of each key, (m,)."""
        starts = torch.tensor(self._groups(k.shape[2]), device=k.device)
        group = torch.searchsorted(starts, torch.arange(k.shape[2], device=k.device), right=True) - 1
        if self.slot.pattern is not Pattern.CS:
            return masked_mean(k, key_mask), group
        return F.pad(k.cumsum(2)[:, :, starts[1:] - 1] / starts[1:, None], (0, 0, 1, 0)), group

    def _groups(self, m: int) -> list[int]:
        """Return where groups of keys begin that lose the same mean: in CS that of all keys before the group."""
        if self.slot.pattern is not Pattern.CS:
            return [0]
        doubling = [2**i for i in range((self.key_block - 1).bit_length())]
        return [0, *(start for start in (*doubling, *range(self.key_block, m, self.key_block)) if start < m)]

    def _smoothing(self, n: int, m: int) -> float:
        means = n * len(self._groups(m)) if self.smooth != "none" else 0
        means += m * -(-n // self.query_block) if self.smooth == "qk" else 0
        return 2.0 * self.slot.heads * self.slot.dim * means
