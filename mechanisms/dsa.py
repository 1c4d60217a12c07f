"""DeepSeek sparse attention (DeepSeek-V3.2, arXiv 2512.02556): an indexer chooses the keys that a query attends to.

The indexer scores every pair of tokens (equation 1), with heads of its own, one key for all of them and no softmax:

    I_ij = sum over h of w_ih relu(rotate(W_h x_i) . rotate(LayerNorm(W_K y_j))),   w_i = W_w x_i / sqrt(heads size)

A query attends by softmax to its `selected` keys of the largest scores, the same in all heads (equation 2); of equal
scores the earlier key is taken. The choice has no gradient. In training the indexer learns from `aux_loss`, the
divergence KL(attention, averaged over heads || softmax of I) over the chosen keys (equation 4), and passes no gradient
on to the tokens. Half of its channels are rotated, and q and k as the layer would rotate them.

- CS is the paper's, which makes q, k and v by multi-head latent attention; here they are the layer's.
- NS (ours) chooses from all keys. NC and CC (ours) choose from the source, and nothing is rotated.

`attend` computes the attention to all keys and masks it. Gathering the chosen keys of every query writes out
selected (dim + value_dim) numbers a query and head, where the whole row of scores has m.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, next_positions, visible_in_cache
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax, repeat_heads, visible
from cab.ops.top_k import top_k

Maybe = Tensor | None


class Dsa(Mechanism):
    """Softmax attention to the keys that an indexer finds."""

    patterns = {"NS": "extension", "CS": "native", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2512.02556"
    cost = "O(n m), and O(n k d) for k keys a query"
    inputs = {"x": ("queries", "real", "width"), "y": ("keys", "real", "width")}
    rotates = True
    grouped = True
    checks = ({"selected": 5, "index_heads": 3, "index_size": 6}, {"selected": 7, "index_heads": 1, "index_size": 2})
    limits = ({"params": {"selected": 1000}, "equals": "softmax"},)
    exempt = {
        "learning:x": "in training the indexer reads detached tokens (arXiv 2512.02556, section 2.1)",
        "learning:y": "in training the indexer reads detached tokens (arXiv 2512.02556, section 2.1)",
    }

    def __init__(self, slot: Any, *, selected: int = 128, index_heads: int = 4, index_size: int = 32) -> None:
        super().__init__(slot)
        if min(selected, index_heads, index_size) < 1:
            sizes = f"selected={selected}, index_heads={index_heads}, index_size={index_size}"
            raise ValueError(f"{sizes}: at least 1 of each is needed")
        self.selected, self.heads, self.size, self.turned = selected, index_heads, index_size, 2 * (index_size // 4)
        self.base = None if slot.pattern.cross else slot.rotary
        self.of_query = nn.Linear(slot.tokens, index_heads * index_size, bias=False)
        self.of_weight = nn.Linear(slot.tokens, index_heads, bias=False)
        self.of_key = nn.Linear(slot.tokens, index_size, bias=False)
        self.norm = nn.LayerNorm(index_size, eps=1e-6)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, x: Tensor, y: Tensor
    ) -> Tensor:
        """Score, choose, and attend; in training leave the indexer's loss."""
        position = torch.arange(max(q.shape[2], k.shape[2]), device=q.device)
        q, k = (rotate(t, position[: t.shape[2]], self.base) for t in (q, k))
        index = self._index(x, position[: q.shape[2]], self._index_keys(y, position[: k.shape[2]]))
        chosen = self._choose(index, visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device))
        weights = self._weights(q, k, chosen)
        if self.training:
            self.aux_loss = _divergence(weights, index, chosen, query_mask)
        return weights @ repeat_heads(v, self.slot.heads)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, x: Tensor, y: Tensor) -> Tensor:
        """Choose the keys of each query by sorting, and attend to them."""
        i, j = torch.arange(q.shape[2], device=q.device), torch.arange(k.shape[2], device=q.device)
        with full_precision(q.device.type):
            dtype, (x, y) = at_least_float32(x), (t.to(at_least_float32(t)) for t in (x, y))
            of_query, of_weight, of_key = (t.weight.to(dtype).T for t in (self.of_query, self.of_weight, self.of_key))
            keys = F.layer_norm(y @ of_key, (self.size,), self.norm.weight.to(dtype), self.norm.bias.to(dtype), 1e-6)
            keys, index = rotate(keys, j, self.base, self.turned), 0.0
            for head, weight in zip((x @ of_query).split(self.size, -1), (x @ of_weight).unbind(-1), strict=True):
                scores = (rotate(head, i, self.base, self.turned) @ keys.mT).clamp(min=0)
                index = index + weight[..., None] * scores / (self.heads * self.size) ** 0.5
        q, k = rotate(q, i, self.base), rotate(k, j, self.base).repeat_interleave(q.shape[1] // k.shape[1], 1)
        v, rows = v.repeat_interleave(q.shape[1] // v.shape[1], 1), []
        for row, scores in enumerate(index[0].tolist()):
            past = scores[: row + 1] if self.slot.pattern is Pattern.CS else scores
            best = sorted(range(len(past)), key=lambda key: (-past[key], key))[: self.selected]
            weights = (q[:, :, [row]] @ k[:, :, best].mT / self.slot.dim**0.5).softmax(-1)
            rows.append(weights @ v[:, :, best])
        return torch.cat(rows, 2)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the indexer's projections and scores, and attention to all keys."""
        attention = self.slot.heads * n * m * (self.slot.dim + self.slot.values)
        return self._indexing(n, m, n * m) + 2.0 * attention

    def flops_needed(self, n: int, m: int) -> float:
        """Count attention to the chosen keys alone; in CS no query scores a later key."""
        full = min(self.selected, m)
        pairs, chosen = n * m, n * full
        if self.slot.pattern is Pattern.CS:
            pairs, chosen = n * (n + 1) // 2, n * full - full * (full - 1) // 2
        return self._indexing(n, m, pairs) + 2.0 * self.slot.heads * chosen * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None, *, y: Tensor) -> Any:
        """Keep keys, values and the indexer's keys: of the source (CC), or of no token (CS)."""
        position = torch.arange(k.shape[2], device=k.device)
        source = rotate(k, position, self.base), v, self._index_keys(y, position)
        return extend_cache(empty_cache(*(t[:, :, :0] for t in source)), source, key_mask)[0]

    def step(
        self,
        state: Any,
        q: Tensor,
        k: Maybe = None,
        v: Maybe = None,
        key_mask: Maybe = None,
        *,
        x: Tensor,
        y: Maybe = None,
    ) -> tuple[Tensor, Any]:
        """Keep the new tokens (CS), and choose among all that are kept."""
        position = None
        if k is not None:
            position = next_positions(state, k.shape[2], key_mask)
            new = rotate(k, position, self.base), v, self._index_keys(y, position)
            state, _ = extend_cache(state, new, key_mask)
            q = rotate(q, position, self.base)
        keys, values, index_keys = state[0]
        chosen = self._choose(self._index(x, position, index_keys), visible_in_cache(state, position))
        return self._weights(q, keys, chosen) @ repeat_heads(values, self.slot.heads), state

    def _index_keys(self, y: Tensor, position: Tensor) -> Tensor:
        """Return the indexer's keys, (batch, 1, m, size), in float32 at least, as scores that are compared."""
        y, norm = y.detach().to(at_least_float32(y)), self.norm
        with full_precision(y.device.type):
            keys = F.linear(y, self.of_key.weight.to(y.dtype))
            keys = F.layer_norm(keys, (self.size,), norm.weight.to(y.dtype), norm.bias.to(y.dtype), norm.eps)
            return rotate(keys.unsqueeze(1), position, self.base, self.turned)

    def _index(self, x: Tensor, position: Maybe, keys: Tensor) -> Tensor:
        """Return the indexer's scores, (batch, 1, n, m), in float32 at least."""
        x = x.detach().to(keys.dtype)
        with full_precision(x.device.type):
            q = F.linear(x, self.of_query.weight.to(x.dtype)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            weight = F.linear(x, self.of_weight.weight.to(x.dtype)).mT.unsqueeze(-1) * (self.heads * self.size) ** -0.5
            scores = rotate(q, position, self.base, self.turned) @ keys.mT
            return (weight * scores.relu()).sum(1, keepdim=True)

    def _choose(self, index: Tensor, seen: Maybe) -> Tensor:
        """Return the mask of the chosen keys, (batch, 1, n, m)."""
        keys, counts = top_k(index, self.selected, seen)
        counts = torch.ones_like(keys, dtype=torch.bool) if counts is None else counts
        return torch.zeros_like(index, dtype=torch.bool).scatter(-1, keys, counts)

    def _weights(self, q: Tensor, k: Tensor, chosen: Tensor) -> Tensor:
        return masked_softmax((q * self.slot.dim**-0.5) @ repeat_heads(k, self.slot.heads).mT, chosen)

    def _indexing(self, n: int, m: int, pairs: int) -> float:
        of_queries = n * (self.of_query.weight.numel() + self.of_weight.weight.numel())
        return 2.0 * (of_queries + m * self.of_key.weight.numel() + pairs * self.heads * self.size)


def _divergence(weights: Tensor, index: Tensor, chosen: Tensor, query_mask: Maybe) -> Tensor:
    """Return KL(mean of the heads' weights || softmax of the scores) over the chosen keys, the mean of all queries."""
    target = weights.detach().to(index.dtype).mean(1, keepdim=True)
    log_softmax = index.masked_fill(~chosen, -1e30).log_softmax(-1)
    divergence = (torch.xlogy(target, target) - target * log_softmax).sum(-1).squeeze(1)
    real = chosen.any(-1).squeeze(1) if query_mask is None else chosen.any(-1).squeeze(1) & query_mask
    return (divergence * real).sum() / real.sum().clamp(min=1)
