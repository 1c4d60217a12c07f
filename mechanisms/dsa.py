"""DeepSeek sparse attention (DeepSeek-V3.2, arXiv 2512.02556): an indexer chooses the keys that a query attends to.

The indexer scores every pair of tokens (equation 1), with heads of its own, one key for all of them and no softmax:

    I_ij = sum over h of w_ih relu(rotate(W_h x_i) . rotate(LayerNorm(W_K y_j))),   w_i = W_w x_i / sqrt(heads size)

A query attends by softmax to its `selected` keys of the largest scores, the same in all heads (equation 2); of equal
scores the earlier key is taken. The choice has no gradient. In training the indexer learns from `aux_loss`, the
divergence KL(attention, averaged over heads || softmax of I) over the chosen keys (equation 4), and passes no gradient
on to the tokens. Half of its channels are rotated, and q and k as the layer would rotate them.

- CS is the paper's, which makes q, k and v by multi-head latent attention; here they are the layer's.
- NS (ours) chooses from all keys. NC and CC (ours) choose from the source, and nothing is rotated.

The attention to all keys is computed and masked. Gathering the chosen keys of every query writes out
selected (dim + value_dim) numbers a query and head, where the whole row of scores has m.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Pattern
from cab.ops.pairwise import Pairwise
from cab.ops.precision import full_precision, wide_linear
from cab.ops.rotary import rotate
from cab.ops.softmax import repeat_heads, softmax_weights
from cab.ops.top_k import top_k_mask


class Dsa(Pairwise):
    """Softmax attention to the keys that an indexer finds."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2512.02556"
    parity = "transformers (DeepSeek-V3.2), fla (plain functions)"
    cost = "O(n m d)"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    rotates = True
    grouped = True
    accepts = {"selected": ">= 1", "index_heads": ">= 1", "index_size": ">= 1"}
    checks = ({"selected": 5, "index_heads": 3, "index_size": 6}, {"selected": 7, "index_heads": 1, "index_size": 2})
    limits = ({"params": {"selected": 1000}, "equals": "softmax"},)
    exempt = {
        "learning:x": "in training the indexer reads detached tokens (arXiv 2512.02556, section 2.1)",
        "learning:y": "in training the indexer reads detached tokens (arXiv 2512.02556, section 2.1)",
    }

    def __init__(self, slot: Any, *, selected: int = 128, index_heads: int = 4, index_size: int = 32) -> None:
        super().__init__(slot)
        self.selected, self.heads, self.size, self.turned = selected, index_heads, index_size, 2 * (index_size // 4)
        self.base = None if slot.pattern.cross else slot.rotary
        self.of_query = nn.Linear(slot.tokens, index_heads * index_size, bias=False)
        self.of_weight = nn.Linear(slot.tokens, index_heads, bias=False)
        self.of_key = nn.Linear(slot.tokens, index_size, bias=False)
        self.norm = nn.LayerNorm(index_size, eps=1e-6)

    def keep(self, k: Tensor, v: Tensor, position: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Keep key, value and the indexer's key."""
        return rotate(k, position, self.base), v, self.index_keys(y, position)

    def read(
        self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, *, seen: Any, position: Tensor, query_mask: Any, x: Tensor
    ) -> Tensor:
        """Score, choose, and attend; in training leave the indexer's loss."""
        index = self.index(x, position, keys)
        chosen = top_k_mask(index, self.selected, seen)
        weights = softmax_weights(rotate(q, position, self.base), k, chosen)
        if self.training:
            self.aux_loss = _divergence(weights, index, chosen, query_mask)
        return weights @ repeat_heads(v, self.slot.heads)

    def index_keys(self, y: Tensor, position: Tensor) -> Tensor:
        """Return the indexer's keys, (batch, 1, m, size), in float32 at least, because scores are compared."""
        keys = wide_linear(self.of_key, y.detach()).unsqueeze(1)
        scale, shift = self.norm.weight.to(keys.dtype), self.norm.bias.to(keys.dtype)
        return rotate(F.layer_norm(keys, (self.size,), scale, shift, 1e-6), position, self.base, self.turned)

    def index(self, x: Tensor, position: Tensor, keys: Tensor) -> Tensor:
        """Return the indexer's scores, (batch, 1, n, m)."""
        q = wide_linear(self.of_query, x.detach()).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weight = wide_linear(self.of_weight, x.detach()).mT.unsqueeze(-1) * (self.heads * self.size) ** -0.5
        with full_precision(x.device.type):
            scores = rotate(q, position, self.base, self.turned) @ keys.mT
        return (weight * scores.relu()).sum(1, keepdim=True)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Tensor, y: Tensor) -> Tensor:
        """Choose the keys of each query by sorting, and attend to them."""
        i, j = (torch.arange(t.shape[2], device=q.device) for t in (q, k))
        keys, scale, shift = wide_linear(self.of_key, y), self.norm.weight, self.norm.bias
        keys = rotate(F.layer_norm(keys, (self.size,), scale.to(keys), shift.to(keys), 1e-6), j, self.base, self.turned)
        of_heads = wide_linear(self.of_query, x).split(self.size, -1), wide_linear(self.of_weight, x).unbind(-1)
        index, rows = 0.0, []
        for head, weight in zip(*of_heads, strict=True):
            scores = (rotate(head, i, self.base, self.turned) @ keys.mT).clamp(min=0)
            index = index + weight[..., None] * scores / (self.heads * self.size) ** 0.5
        q, k = rotate(q, i, self.base), rotate(k, j, self.base)
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        for row, scores in enumerate(index[0].tolist()):
            past = scores[: row + 1] if self.slot.pattern is Pattern.CS else scores
            best = sorted(range(len(past)), key=lambda key: (-past[key], key))[: self.selected]
            weights = (q[:, :, [row]] @ k[:, :, best].mT / self.slot.dim**0.5).softmax(-1)
            rows.append(weights @ v[:, :, best])
        return torch.cat(rows, 2)

    def own_flops(self, n: int, m: int) -> float:
        """Count the indexer's projections."""
        of_queries = n * (self.of_query.weight.numel() + self.of_weight.weight.numel())
        return 2.0 * (of_queries + m * self.of_key.weight.numel())

    @property
    def pair_flops(self) -> float:
        """Count a score of the indexer, and one of attention with a weighed value."""
        return 2.0 * self.heads * self.size + super().pair_flops

    def flops_needed(self, n: int, m: int) -> float:
        """Leave out attention to the keys that are not chosen."""
        full = min(self.selected, m)
        attended = n * full - (full * (full - 1) // 2 if self.past_only else 0)
        scored = n * (n + 1) // 2 if self.past_only else n * m
        return self.own_flops(n, m) + 2.0 * self.heads * self.size * scored + super().pair_flops * attended


def _divergence(weights: Tensor, index: Tensor, chosen: Tensor, query_mask: Tensor | None) -> Tensor:
    """Return KL(mean of the heads' weights || softmax of the scores) over the chosen keys, the mean of all queries."""
    target = weights.detach().to(index.dtype).mean(1, keepdim=True)
    log_softmax = index.masked_fill(~chosen, -1e30).log_softmax(-1)
    divergence = (torch.xlogy(target, target) - target * log_softmax).sum(-1).squeeze(1)
    real = chosen.any(-1).squeeze(1) if query_mask is None else chosen.any(-1).squeeze(1) & query_mask
    return (divergence * real).sum() / real.sum().clamp(min=1)
