"""ProbSparse attention in its authors' masked form (Zhou et al., arXiv 2012.07436), whose selection sees the future.

As in the noncausal patterns of `probsparse`, the factor ceil(ln n) queries of largest measure are selected among all,
by their scores with a sample of all keys, and attend.

- CS: a selected query attends to the keys up to its own. Every other row is the sum (not the mean) of the values up to
  its own, as in the authors' code. Whether a row attends depends on later tokens: that is the leak.
- CC: a selected query attends to the whole source. Every other row is the mean of its values. Whether a row attends
  depends on later queries.
"""

from math import ceil, log
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
    """The queries of largest measure among all attend; the rows of the others are a sum or a mean of the values."""

    patterns = {"CS": "leaky", "CC": "leaky"}
    refuses = {"NS": "nothing leaks there: use probsparse", "NC": "nothing leaks there: use probsparse"}
    paper = "arXiv 2012.07436"
    cost = "O((n + m) log(n) d)"
    accepts = {"factor": ">= 1"}
    checks = ({"factor": 2}, {"factor": 1})
    limits = ({"params": {"factor": 64}, "equals": "softmax"},)

    order: Tensor  # a random permutation of the source; the keys with its smallest entries are the sample

    def __init__(self, slot: Any, *, factor: int = 5) -> None:
        super().__init__(slot)
        self.factor = factor
        self.register_buffer("order", torch.randperm(slot.keys))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Select queries by their measure, and compute the attention of these alone."""
        scale = self.slot.dim**-0.5
        order = torch.randperm(self.slot.keys, device=k.device) if self.training else self.order
        sample, sample_counted = sample_keys(order, self.factor, k.shape[2], key_mask)
        scores = sample_scores(q, gather_rows(k, sample[:, None]))
        measure = sparsity_measure(scores, None if sample_counted is None else sample_counted[:, None, None, :])
        positions, counted = select_queries(measure, self.factor, query_mask)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        if self.slot.pattern is Pattern.CS:
            past = torch.arange(k.shape[2], device=k.device) <= positions.unsqueeze(3)
            seen = past if seen is None else past & seen
            values = v if key_mask is None else v.masked_fill(~key_mask[:, None, :, None], 0.0)
            other_rows = values.cumsum(2, dtype=at_least_float32(v)).to(v.dtype)
        else:
            other_rows = masked_mean(v, key_mask).expand(-1, -1, q.shape[2], -1)
        rows = masked_softmax((gather_rows(q, positions) * scale) @ k.transpose(-1, -2), seen) @ v
        return scatter_rows(rows, positions, counted, other_rows)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute algorithm 1; in CS with a causal mask, and sums in place of means."""
        n, m, cross = q.shape[2], k.shape[2], self.slot.pattern.cross
        sampled, selected = (min(self.factor * max(1, ceil(log(count))), count) for count in (m, n))
        sample = self.order[:m].argsort()[:sampled]
        scores = q @ k.mT / self.slot.dim**0.5
        measure = scores[..., sample].amax(-1) - scores[..., sample].mean(-1)
        heads = []
        for h in range(q.shape[1]):
            largest = measure[0, h].argsort(descending=True, stable=True)[:selected].tolist()
            rows = []
            for i in range(n):
                count = m if cross else i + 1
                values = v[0, h, :count]
                other_row = values.mean(0) if cross else values.sum(0)
                rows.append(scores[0, h, i, :count].softmax(0) @ values if i in largest else other_row)
            heads.append(torch.stack(rows))
        return torch.stack(heads)[None]

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores with the sample, and the attention of the selected queries."""
        dim, size = self.slot.dim, self.slot.values
        sampled, selected = sample_size(self.factor, m), sample_size(self.factor, n)
        return 2.0 * self.slot.heads * (n * sampled * dim + selected * m * (dim + size))
