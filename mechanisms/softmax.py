"""Softmax attention (Vaswani et al., arXiv 1706.03762, equation 1): softmax(q k^T / sqrt(dim)) v.

Row i uses q_i and the keys and values alone, so causal cross needs nothing more than noncausal cross. Two options:

- `alibi` (Press et al., arXiv 2108.12409): the score of i and j falls by slope |i - j|. In cross patterns a query has
  no distance to a key, and as in the paper's encoder-decoders nothing is added.
- `sinks` (gpt-oss; Miller's softmax-one where the logit is 0): each head has a logit of its own that joins the
  softmax and brings no value, so that a row may weigh the keys by less than one in all.

Backends: `tiled` is FlashAttention's algorithm in PyTorch, `sdpa` PyTorch's fused kernels, `flex` its generated ones,
`flash_attn` the package of that name.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern, Unsupported
from cab.ops.alibi import alibi_slopes
from cab.ops.kernels import flash_attention, flash_refusal, flex_refusal, flex_softmax
from cab.ops.softmax import masked_softmax, repeat_heads, visible
from cab.ops.tiled import tiled_pairs, tiled_softmax


class Softmax(Mechanism):
    """Every query weighs every key that it may see."""

    patterns = {"NS": "native", "CS": "native", "NC": "native", "CC": "native"}
    paper = "arXiv 1706.03762"
    cost = "O(n m d)"
    exact = True
    grouped = True
    checks = ({"tile": 8}, {"alibi": True, "sinks": True, "tile": 16})
    limits = (
        {"params": {"alibi": True}, "weights": {"slopes": 0.0}, "equals": "softmax"},
        {"params": {"sinks": True}, "weights": {"sink": -1000.0}, "equals": "softmax"},
    )

    slopes: Tensor | None

    def __init__(self, slot: Any, *, alibi: bool = False, sinks: bool = False, tile: int = 128) -> None:
        super().__init__(slot)
        if tile < 1:
            raise ValueError(f"tile={tile}: at least 1 key is needed")
        self.tile = tile
        biased = alibi and not slot.pattern.cross
        self.register_buffer("slopes", alibi_slopes(slot.heads) if biased else None, persistent=False)
        self.sink = nn.Parameter(torch.zeros(slot.heads)) if sinks else None
        self.exact = not (biased or sinks)

    def use(self, backend: str) -> Mechanism:
        """Refuse what is not installed, or would compute something else."""
        reason = ""
        if backend == "flex":
            reason = flex_refusal(self.slot)
        elif backend == "flash_attn":
            reason = flash_refusal(self.slot, sinks=self.sink is not None)
        if reason:
            raise Unsupported(reason)
        return super().use(backend)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Write the whole (queries, keys) matrix of weights."""
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        place = torch.arange(q.shape[2], device=q.device)
        return self._weighed(q, k, v, seen, place[:, None] - place if self.slopes is not None else None)

    def attend_tiled(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Go through the keys tile by tile (online softmax)."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        causal = self.slot.pattern is Pattern.CS
        out, total = tiled_softmax(q * self.slot.dim**-0.5, k, v, causal, self.tile, key_mask, self.slopes)
        return self._sunk(out, total)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with PyTorch's fused kernels, whichever it selects; options become an additive mask."""
        grouped = k.shape[1] != self.slot.heads
        if key_mask is None and self.exact:
            causal = self.slot.pattern is Pattern.CS
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        if self.exact:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped)
        bias = self._bias(q, k.shape[2], seen)
        if self.sink is not None:  # one more key, of zeros, whose score is the sink's logit
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            column = self.sink.to(q.dtype)[:, None, None].expand(*bias.shape[:-1], 1)
            bias = torch.cat([bias, column], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=grouped)

    def attend_flex(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with the kernel that PyTorch generates for these masks and this bias."""
        return self._sunk(*flex_softmax(q, k, v, self.slot.pattern is Pattern.CS, key_mask, self.slopes))

    def attend_flash_attn(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with the package flash-attn; masked tokens are packed away."""
        return flash_attention(q, k, v, self.slot.pattern is Pattern.CS, key_mask, query_mask, self.slopes)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Equation 1, head by head, each exponential written out."""
        batch, heads, n, dim = q.shape
        out = []
        for head in range(heads):
            of = head * k.shape[1] // heads
            scores = torch.einsum("bid,bjd->bij", q[:, head], k[:, of]) / dim**0.5
            if self.slopes is not None:
                place = torch.arange(n, device=q.device)
                scores = scores - self.slopes[head] * (place[:, None] - place[None, :]).abs()
            weights = scores.exp()
            if self.slot.pattern is Pattern.CS:
                weights = weights.tril()
            if key_mask is not None:
                weights = weights * key_mask[:, None, :]
            total = weights.sum(-1, keepdim=True)
            if self.sink is not None:
                total = total + self.sink[head].exp()
            out.append((weights / total.where(total > 0, 1.0)) @ v[:, of])
        return torch.stack(out, 1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Two products over all n m pairs; the masked half is computed, save what `tiled` leaves out."""
        causal = self.slot.pattern is Pattern.CS
        pairs = tiled_pairs(n, m, causal, self.tile) if backend == "tiled" else n * m
        pairs += n * (backend == "sdpa" and self.sink is not None)  # which is one more key there
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """In causal self attention, the pairs on and below the diagonal alone."""
        pairs = n * (n + 1) // 2 if self.slot.pattern is Pattern.CS else n * m
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep keys, values and which of them are real."""
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        return k, v, key_mask

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Append the new tokens (CS) and let each read what came up to it."""
        keys, values, real = state
        c, old, away = q.shape[2], keys.shape[2], None
        new = torch.ones(q.shape[0], c, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        seen = real[:, None, None, :]
        if k is not None and v is not None:
            keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
            past = torch.ones(c, old + c, dtype=torch.bool, device=q.device).tril(old)
            seen = real[:, None, None, :] & past
            if self.slopes is not None:
                place = real.cumsum(1)  # a masked token takes no place
                away = (place[:, old:, None] - place[:, None, :]).unsqueeze(1)
        return self._weighed(q, keys, values, seen, away), (keys, values, real)

    def _weighed(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, away: Tensor | None) -> Tensor:
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        if away is not None and self.slopes is not None:
            scores = scores - self.slopes.to(q.dtype)[:, None, None] * away.abs()
        if self.sink is None:
            return masked_softmax(scores, seen) @ v
        scores = torch.cat([scores, self.sink.to(q.dtype)[:, None, None].expand(*scores.shape[:-1], 1)], -1)
        seen = None if seen is None else F.pad(seen, (0, 1), value=True)
        return masked_softmax(scores, seen)[..., :-1] @ v

    def _bias(self, q: Tensor, m: int, seen: Tensor | None) -> Tensor:
        bias = q.new_zeros(1, self.slot.heads, q.shape[2], m)
        if self.slopes is not None:
            place = torch.arange(m, device=q.device)
            bias = bias - self.slopes.to(q.dtype)[:, None, None] * (place[:, None] - place).abs()
        return bias if seen is None else bias.masked_fill(~seen, -torch.inf)

    def _sunk(self, out: Tensor, total: Tensor) -> Tensor:
        """Let the sink take its share of each row, whose scores sum to exp(total)."""
        if self.sink is None:
            return out
        return out * torch.sigmoid(total - self.sink[:, None]).unsqueeze(-1).to(out.dtype)
