"""ProbSparse attention in its authors' masked form (Zhou et al., arXiv 2012.07436): selection sees the future.

As `probsparse`, the factor ceil(ln n) queries of largest measure are selected among all, by scores with a sample of
all keys, and attend:

- CS: to the keys up to their own; every other row is the sum (not the mean) of the values up to its own, as in the
  authors' code. Whether a row attends depends on later tokens: that is the leak.
- CC: to the whole source; every other row is the mean of its values. Whether a row attends depends on later queries.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.means import masked_mean
from cab.ops.precision import at_least_float32
from cab.ops.probsparse import (
    gather_rows,
    sample_keys,
    sample_scores,
    sample_size,
    scatter_rows,
    select_queries,
    sparsity_measure,
)
from cab.ops.softmax import masked_softmax


class ProbSparseLeaky(Mechanism):
    """The queries that stand out among all attend to their past; the others read what came before, added up."""

    patterns = {"CS": "leaky", "CC": "leaky"}
    refuses = {"NS": "nothing leaks there: use probsparse", "NC": "nothing leaks there: use probsparse"}
    paper = "arXiv 2012.07436"
    cost = "O((n + m) log(n) d)"
    checks = ({"factor": 2}, {"factor": 1})
    limits = ({"params": {"factor": 64}, "equals": "softmax"},)

    order: Tensor

    def __init__(self, slot: Any, *, factor: int = 5) -> None:
        super().__init__(slot)
        if factor < 1:
            raise ValueError(f"factor={factor}: at least 1 key and 1 query are needed")
        self.factor = factor
        self.register_buffer("order", torch.randperm(slot.keys))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Measure all, select few, and let these attend."""
        scale = self.slot.dim**-0.5
        order = torch.randperm(self.slot.keys, device=k.device) if self.training else self.order
        places, counted = sample_keys(order, self.factor, k.shape[2], key_mask)
        scores = sample_scores(q, gather_rows(k, places[:, None]))
        measured = sparsity_measure(scores, None if counted is None else counted[:, None, None, :])
        places, counted = select_queries(measured, self.factor, query_mask)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        if self.slot.pattern is Pattern.CS:
            past = torch.arange(k.shape[2], device=k.device) <= places.unsqueeze(3)
            seen = past if seen is None else past & seen
            values = v if key_mask is None else v.masked_fill(~key_mask[:, None, :, None], 0.0)
            lazy = values.cumsum(2, dtype=at_least_float32(v)).to(v.dtype)
        else:
            lazy = masked_mean(v, key_mask).expand(-1, -1, q.shape[2], -1)
        active = masked_softmax((gather_rows(q, places) * scale) @ k.transpose(-1, -2), seen) @ v
        return scatter_rows(active, places, counted, lazy)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """The same, query by query of each head of each sample."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        for b in range(q.shape[0]):
            keys = list(range(k.shape[2])) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            queries = list(range(q.shape[2])) if query_mask is None else query_mask[b].nonzero()[:, 0].tolist()
            if not keys:
                continue
            sample = sorted(keys, key=lambda j: int(self.order[j]))[: sample_size(self.factor, len(keys))]
            for h in range(q.shape[1]):
                scores = (q[b, h] @ k[b, h].T) / self.slot.dim**0.5
                stands = [float(row.max() - row.mean()) for row in scores[:, sample].detach()]
                ranked = sorted(queries, key=lambda i: -stands[i])[: sample_size(self.factor, len(queries))]
                for i in queries:
                    visible = keys if self.slot.pattern.cross else [j for j in keys if j <= i]
                    values = v[b, h, visible]
                    if i in ranked:
                        out[b, h, i] = scores[i, visible].softmax(0) @ values
                    else:
                        out[b, h, i] = values.mean(0) if self.slot.pattern.cross else values.sum(0)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores with the sample, and the attention of those selected."""
        dim, size = self.slot.dim, self.slot.values
        sample, selected = sample_size(self.factor, m), sample_size(self.factor, n)
        return 2.0 * self.slot.heads * (n * sample * dim + selected * m * (dim + size))
