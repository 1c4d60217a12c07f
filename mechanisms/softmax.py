"""Softmax attention (Vaswani et al., arXiv 1706.03762, equation 1): softmax(q k^T / sqrt(dim)) v.

Row i depends on q_i, the keys and the values alone, so causal cross equals noncausal cross. Two options:

- `alibi` (Press et al., arXiv 2108.12409): the score of i and j falls by slope |i - j|. In cross patterns a query has
  no distance to a key, and as in the paper's encoder-decoders nothing is added.
- `sinks` (gpt-oss; Miller's softmax-one where the logit is 0): each head has one learned logit more in its softmax,
  without a value, so that the weights of a row may sum to less than one.

Backends: `tiled` is FlashAttention's algorithm in PyTorch, `sdpa` is PyTorch's fused kernels, `flex` is the kernels
that PyTorch generates, and `flash_attn` is the package of that name.
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
    parity = "transformers (gpt-oss, Bloom)"
    cost = "O(n m d)"
    exact = True
    grouped = True
    accepts = {"tile": ">= 1"}
    checks = ({"tile": 8}, {"alibi": True, "sinks": True, "tile": 16})
    limits = (
        {"params": {"alibi": True}, "weights": {"slopes": 0.0}, "equals": "softmax"},
        {"params": {"sinks": True}, "weights": {"sink": -1000.0}, "equals": "softmax"},
    )

    slopes: Tensor | None

    def __init__(self, slot: Any, *, alibi: bool = False, sinks: bool = False, tile: int = 128) -> None:
        super().__init__(slot)
        self.tile = tile
        biased = alibi and not slot.pattern.cross
        self.register_buffer("slopes", alibi_slopes(slot.heads) if biased else None, persistent=False)
        self.sink = nn.Parameter(torch.zeros(slot.heads)) if sinks else None
        self.exact = not (biased or sinks)

    def use(self, backend: str) -> Mechanism:
        """Refuse a backend that is not installed or does not compute these options."""
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
        position = torch.arange(q.shape[2], device=q.device)
        return self._attend(q, k, v, seen, position[:, None] - position if self.slopes is not None else None)

    def attend_tiled(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the softmax a tile of keys at a time (online softmax)."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        causal = self.slot.pattern is Pattern.CS
        out, log_sum = tiled_softmax(q * self.slot.dim**-0.5, k, v, causal, self.tile, key_mask, self.slopes)
        return self._with_sink(out, log_sum)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with the fused kernel that PyTorch selects; the options become an additive mask."""
        grouped = k.shape[1] != self.slot.heads
        if key_mask is None and self.exact:
            causal = self.slot.pattern is Pattern.CS
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)
        seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        if self.exact:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=grouped)
        bias = self._bias(q, k.shape[2], seen)
        if self.sink is not None:  # one more key and value, of zeros, with the sink's logit as its score
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            sink_column = self.sink.to(q.dtype)[:, None, None].expand(*bias.shape[:-1], 1)
            bias = torch.cat([bias, sink_column], -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=grouped)

    def attend_flex(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with the kernel that PyTorch generates for these masks and this bias."""
        return self._with_sink(*flex_softmax(q, k, v, self.slot.pattern is Pattern.CS, key_mask, self.slopes))

    def attend_flash_attn(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute with the package flash-attn, on a packed batch without the masked tokens."""
        return flash_attention(q, k, v, self.slot.pattern is Pattern.CS, key_mask, query_mask, self.slopes)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute equation 1, every exponential written out; ALiBi changes the scores, a sink the normaliser."""
        group, position = self.slot.heads // k.shape[1], torch.arange(q.shape[2], device=q.device)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        scores = q @ k.mT / self.slot.dim**0.5
        if self.slopes is not None:
            scores = scores - self.slopes[:, None, None] * (position[:, None] - position).abs()
        weights = scores.exp().tril() if self.slot.pattern is Pattern.CS else scores.exp()
        total = weights.sum(-1, keepdim=True)
        if self.sink is not None:
            total = total + self.sink[:, None, None].exp()
        return weights / total @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count two products over all n m pairs. In CS `tiled` skips the tiles above the diagonal."""
        causal = self.slot.pattern is Pattern.CS
        pairs = tiled_pairs(n, m, causal, self.tile) if backend == "tiled" else n * m
        pairs += n * (backend == "sdpa" and self.sink is not None)  # the sink is one more key there
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Count two products over the pairs that are seen: in CS, those on and below the diagonal."""
        pairs = n * (n + 1) // 2 if self.slot.pattern is Pattern.CS else n * m
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return keys, values and the mask of the real ones."""
        if key_mask is None:
            key_mask = torch.ones(k.shape[0], k.shape[2], dtype=torch.bool, device=k.device)
        return k, v, key_mask

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Append the new tokens (CS), and let each query attend to the tokens up to its own."""
        keys, values, real = state
        c, old, distance = q.shape[2], keys.shape[2], None
        new = torch.ones(q.shape[0], c, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        seen = real[:, None, None, :]
        if k is not None and v is not None:
            keys, values, real = torch.cat([keys, k], 2), torch.cat([values, v], 2), torch.cat([real, new], 1)
            past = torch.ones(c, old + c, dtype=torch.bool, device=q.device).tril(old)
            seen = real[:, None, None, :] & past
            if self.slopes is not None:
                position = real.cumsum(1)  # a masked token has no position of its own
                distance = (position[:, old:, None] - position[:, None, :]).unsqueeze(1)
        return self._attend(q, keys, values, seen, distance), (keys, values, real)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None, distance: Tensor | None) -> Tensor:
        """Attend with a mask `seen` and distances i - j, which broadcast to (batch, heads, n, m)."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        if distance is not None and self.slopes is not None:
            scores = scores - self.slopes.to(q.dtype)[:, None, None] * distance.abs()
        if self.sink is None:
            return masked_softmax(scores, seen) @ v
        scores = torch.cat([scores, self.sink.to(q.dtype)[:, None, None].expand(*scores.shape[:-1], 1)], -1)
        seen = None if seen is None else F.pad(seen, (0, 1), value=True)
        return masked_softmax(scores, seen)[..., :-1] @ v

    def _bias(self, q: Tensor, m: int, seen: Tensor | None) -> Tensor:
        """Return what is added to the scores: ALiBi's bias, and minus infinity where a key is not seen."""
        bias = q.new_zeros(1, self.slot.heads, q.shape[2], m)
        if self.slopes is not None:
            position = torch.arange(m, device=q.device)
            bias = bias - self.slopes.to(q.dtype)[:, None, None] * (position[:, None] - position).abs()
        return bias if seen is None else bias.masked_fill(~seen, -torch.inf)

    def _with_sink(self, out: Tensor, log_sum: Tensor) -> Tensor:
        """Add the sink to the softmax of each row, whose exponentials sum to exp(log_sum) without it."""
        if self.sink is None:
            return out
        return out * torch.sigmoid(log_sum - self.sink[:, None]).unsqueeze(-1).to(out.dtype)
