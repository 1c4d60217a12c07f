"""Multi-query self-attention (MQSA, arXiv 2311.01056): attention by the last item, and by the mean of the last L items.

    o_i = a sum over j of softmax_j(q_i . k_j / sqrt(dim)) v_j
        + (1 - a) sum over j of softmax_j(p_i . k_j / sqrt(dim)) v_j,   p_i = mean of the queries i - L + 1, ..., i

Before the L-th item the mean is of the items that there are. The authors average the items' embeddings, norm the mean
and project it; here projected queries are averaged. Their two attentions stand in two towers with weights of their own,
whose final scores of items are mixed; here they share queries, keys and values, and their outputs are mixed. A mean
query is rotated at the position of its last item.

- CS is the paper's pattern, in this form of one layer. NS is ours: a query is still the mean of items up to its own.
- NC and CC are ours: items of the target are averaged, and read the source.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern
from cab.ops.cache import next_positions
from cab.ops.pairwise import Pairwise
from cab.ops.precision import at_least_float32
from cab.ops.ragged import gather_tokens, real_first
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax, repeat_heads

Mask = Tensor | None


class Mqsa(Pairwise):
    """Softmax attention by each query and by the mean of the last few, weighed against each other."""

    patterns = {"NS": "extension", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2311.01056"
    titles = (
        "Collaboration and Transition: Distilling Item Transitions into Multi-Query Self-Attention for Sequential "
        "Recommendation",
    )
    cost = "O(n m d)"
    grouped = True
    rotates = True
    accepts = {"queries": ">= 1", "short": ">= 0, <= 1"}
    checks = ({"queries": 3, "short": 0.3}, {"queries": 5, "short": 0.0})
    limits = (
        {"params": {"queries": 1}, "equals": "softmax"},
        {"params": {"short": 1.0}, "equals": "softmax"},
    )

    def __init__(self, slot: Any, *, queries: int = 3, short: float = 0.5) -> None:
        super().__init__(slot)
        self.queries, self.short, self.base = queries, short, None if slot.pattern.cross else slot.rotary

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None) -> Tensor:
        """Average, and attend by both."""
        mean = self._means(F.pad(q, (0, 0, self.queries - 1, 0)), torch.arange(q.shape[2], device=q.device))
        return super().attend(torch.cat([q, mean], -1), k, v, key_mask, query_mask)

    def keep(self, k: Tensor, v: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """Keep rotated keys, and values."""
        return rotate(k, position, self.base), v

    def read(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Mask, position: Tensor, query_mask: Mask) -> Tensor:
        """Attend by the queries, and by the means beside them."""
        k, v = repeat_heads(k, self.slot.heads), repeat_heads(v, self.slot.heads)
        short, long = (
            masked_softmax((rotate(t, position, self.base) * self.slot.dim**-0.5) @ k.mT, seen) for t in q.chunk(2, -1)
        )
        return (self.short * short + (1 - self.short) * long) @ v

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Take one query after the other, by itself and averaged."""
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        keys, rows = rotate(k, torch.arange(k.shape[2]), self.base), []
        for i in range(q.shape[2]):
            seen = i + 1 if self.slot.pattern is Pattern.CS else k.shape[2]
            mean = q[:, :, max(i + 1 - self.queries, 0) : i + 1].mean(2, keepdim=True)
            short, long = (
                (rotate(query, torch.tensor([i]), self.base) @ keys[:, :, :seen].mT / self.slot.dim**0.5).softmax(-1)
                for query in (q[:, :, i : i + 1], mean)
            )
            rows.append(self.short * (short @ v[:, :, :seen]) + (1 - self.short) * (long @ v[:, :, :seen]))
        return torch.cat(rows, 2)

    @property
    def pair_flops(self) -> float:
        """Count two scores of a pair, and one value."""
        return 2.0 * self.slot.heads * (2 * self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None) -> Any:
        """Begin with no last queries."""
        return super().init_state(k, v, key_mask), k.new_zeros(len(k), self.slot.heads, self.queries - 1, self.slot.dim)

    def step(self, state: Any, q: Tensor, k: Mask = None, v: Mask = None, key_mask: Mask = None) -> tuple[Tensor, Any]:
        """Average the new queries with the last ones, and attend by both."""
        pairs, last = state
        mask = torch.ones(len(q), q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        order, back = real_first(mask)
        window = torch.cat([last, gather_tokens(q, order)], 2)
        mean = self._means(window, next_positions(((), pairs[1]), q.shape[2], mask).gather(1, order))
        out, pairs = super().step(pairs, torch.cat([q, gather_tokens(mean, back)], -1), k, v, key_mask)
        end = torch.arange(self.queries - 1, device=q.device) + mask.sum(1, keepdim=True)
        return out, (pairs, gather_tokens(window, end))

    def _means(self, window: Tensor, position: Tensor) -> Tensor:
        """Average, at each token, as many queries of `window` (batch, heads, L - 1 + n, dim) as there are up to it."""
        sums = window.unfold(2, self.queries, 1).sum(-1, dtype=at_least_float32(window))
        count = (position + 1).clamp(max=self.queries)
        return (sums / count.unsqueeze(-1).unsqueeze(-3)).to(window.dtype)
