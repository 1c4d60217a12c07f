"""ProbSparse attention (Zhou et al., arXiv 2012.07436): the queries whose attention is far from uniform attend; the
others, whose attention is nearly the mean, read the mean.

A query is measured by max minus mean of its scores with a sample of factor ceil(ln m) keys (equation 4): the sample is
drawn anew for each call in training, and stays as it was drawn first in evaluation.

- NS and NC: the factor ceil(ln n) queries of largest measure attend; the rest read the mean of the real values.
- CS and CC: to select among queries is to look at later ones. So each query is judged alone: it attends where its
  measure exceeds `threshold`, in units of scores over sqrt(dim). At 3 about as many random queries of unit size attend
  as the paper selects among 1,024. In CS a query reads the values up to its own, and the sample is of places, closer
  together at the beginning, so that about factor ln i of them lie before place i, whatever comes later. How many
  attend is then known only by computing, so each row is computed, and the saving is lost. The original's own masked
  form, which selects among all, is `probsparse_leaky`.
"""

from math import ceil, exp
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.means import masked_mean, running_mean
from cab.ops.probsparse import (
    gather_rows,
    sample_keys,
    sample_scores,
    sample_size,
    scatter_rows,
    select_queries,
    sparsity_measure,
)
from cab.ops.softmax import masked_softmax, visible


class ProbSparse(Mechanism):
    """Queries that stand out attend; the others read the mean."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2012.07436"
    cost = "O((n + m) log(n) d), causal O(n m d)"
    checks = ({"factor": 2, "threshold": 1.0}, {"factor": 1, "threshold": 0.5})
    limits = ({"params": {"factor": 64, "threshold": -1.0}, "equals": "softmax"},)

    order: Tensor
    places: Tensor

    def __init__(self, slot: Any, *, factor: int = 5, threshold: float = 3.0) -> None:
        super().__init__(slot)
        if factor < 1:
            raise ValueError(f"factor={factor}: at least 1 key and 1 query are needed")
        self.factor, self.threshold = factor, threshold
        if slot.pattern is Pattern.CS:
            self.register_buffer("places", torch.tensor(spread(factor, slot.max_len)), persistent=False)
        else:
            self.register_buffer("order", torch.randperm(slot.keys))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Measure, select and attend; where the pattern is causal, attend and then keep what exceeds the threshold."""
        measured = self._measured(q, k, key_mask)
        q = q * self.slot.dim**-0.5
        if self.slot.pattern.causal:
            return self._judged(q, k, v, measured, key_mask)
        places, counted = select_queries(measured, self.factor, query_mask)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        active = masked_softmax(gather_rows(q, places) @ k.transpose(-1, -2), seen) @ v
        return scatter_rows(active, places, counted, masked_mean(v, key_mask).expand(-1, -1, q.shape[2], -1))

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Algorithm 1, query by query of each head of each sample."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        causal, cross = self.slot.pattern.causal, self.slot.pattern.cross
        for b in range(q.shape[0]):
            keys = list(range(k.shape[2])) if key_mask is None else key_mask[b].nonzero()[:, 0].tolist()
            queries = list(range(q.shape[2])) if query_mask is None else query_mask[b].nonzero()[:, 0].tolist()
            if causal and not cross:
                sample = [j for j in keys if j in self.places.tolist()]
            else:
                sample = sorted(keys, key=lambda j: int(self.order[j]))[: sample_size(self.factor, len(keys))]
            for h in range(q.shape[1]):
                scores = (q[b, h] @ k[b, h].T) / self.slot.dim**0.5
                stands = {}
                for i in queries:
                    some = scores[i, [j for j in sample if cross or not causal or j <= i]]
                    stands[i] = float((some.max() - some.mean()).detach()) if len(some) else -1e30
                ranked = sorted(queries, key=lambda i: -stands[i])[: sample_size(self.factor, len(queries))]
                for i in queries:
                    visible = [j for j in keys if cross or not causal or j <= i]
                    if not visible:
                        continue
                    if stands[i] > self.threshold if causal else i in ranked:
                        out[b, h, i] = scores[i, visible].softmax(0) @ v[b, h, visible]
                    else:
                        out[b, h, i] = v[b, h, visible].mean(0)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Scores with the sample, and the attention of those selected (NS, NC) or of all."""
        dim, size = self.slot.dim, self.slot.values
        sample = len(spread(self.factor, m)) if self.slot.pattern is Pattern.CS else sample_size(self.factor, m)
        attending = n if self.slot.pattern.causal else sample_size(self.factor, n)
        return 2.0 * self.slot.heads * (n * sample * dim + attending * m * (dim + size))

    def flops_needed(self, n: int, m: int) -> float:
        """Where the pattern is causal it may be that no query attends; in CS each meets the sample so far."""
        if not self.slot.pattern.causal:
            return self.flops(n, m)
        causal_self = self.slot.pattern is Pattern.CS
        pairs = sum(n - place for place in spread(self.factor, m)) if causal_self else n * sample_size(self.factor, m)
        return 2.0 * self.slot.heads * pairs * self.slot.dim

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep keys, values, which of them are real, and each one's place."""
        batch, m = k.shape[0], k.shape[2]
        real = torch.ones(batch, m, dtype=torch.bool, device=k.device) if key_mask is None else key_mask
        return k, v, real, torch.arange(m, device=k.device).expand(batch, -1)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Judge each query by what came up to it (CS), or by the source (CC)."""
        keys, values, real, place = state
        if k is None or v is None:
            return self.attend(q, keys, values, real), state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        own = real.sum(1, keepdim=True) + new.cumsum(1) - 1
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        real, place = torch.cat([real, new], 1), torch.cat([place, own], 1)
        seen = (real[:, None, :] & (place[:, None, :] <= own[:, :, None]))[:, None]
        scores = (q * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
        judged = sample_scores(q, keys)  # as finely as in `attend`: rounded, other queries would stand out
        stands_out = sparsity_measure(judged, seen & torch.isin(place, self.places)[:, None, None, :]) > self.threshold
        lazy = seen.to(v.dtype) / seen.sum(-1, keepdim=True).clamp(min=1)
        out = torch.where(stands_out[..., None], masked_softmax(scores, seen), lazy) @ values
        return out, (keys, values, real, place)

    def _measured(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Measure each query by its scores with a sample of the keys."""
        if self.slot.pattern is not Pattern.CS:
            order = torch.randperm(self.slot.keys, device=k.device) if self.training else self.order
            places, counted = sample_keys(order, self.factor, k.shape[2], key_mask)
            some = gather_rows(k, places[:, None])
            seen = None if counted is None else counted[:, None, None, :]
        else:
            places = self.places[: len(spread(self.factor, k.shape[2]))]
            some = k[:, :, places]
            seen = places <= torch.arange(q.shape[2], device=q.device)[:, None]
            if key_mask is not None:
                seen = seen & key_mask[:, None, None, places]
        return sparsity_measure(sample_scores(q, some), seen)

    def _judged(self, q: Tensor, k: Tensor, v: Tensor, measured: Tensor, key_mask: Tensor | None) -> Tensor:
        seen, causal = None, not self.slot.pattern.cross
        if key_mask is not None:
            seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        every = F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal and seen is None, scale=1.0)
        lazy = running_mean(v, key_mask) if causal else masked_mean(v, key_mask)
        return torch.where((measured > self.threshold)[..., None], every, lazy)


def spread(factor: int, length: int) -> list[int]:
    """Return places below `length`, about factor ln i of them below each place i, and the first `factor` all."""
    places: list[int] = []
    while True:
        t = len(places)
        place = t if t < factor else max(places[-1] + 1, ceil(factor * exp((t - factor) / factor)))
        if place >= length:
            return places
        places.append(place)
