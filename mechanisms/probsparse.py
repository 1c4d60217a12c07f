"""ProbSparse attention (Zhou et al., arXiv 2012.07436): only the queries whose scores are far from uniform attend.

The measure of a query is the maximum minus the mean of its scores with a sample of factor ceil(ln m) keys (equation 4).
In training each call draws another sample; in evaluation the sample is the one drawn first. All queries share it,
where the authors' code draws one for each.

- NS and NC: the factor ceil(ln n) queries of largest measure attend. The other rows are the mean of the real values.
- CS and CC: a selection among queries would depend on later ones. So each query attends where its own measure exceeds
  `threshold`, in units of scores over sqrt(dim). At 3, of 1,024 random queries of unit variance about as many attend as
  the paper selects. Which rows attend is known only after computing, so all are computed, and the saving is lost.
- In CS the other rows are the mean of the values up to the query's own. The sample there is of fixed positions, denser
  at the beginning, so that about factor ln i of them lie before position i at any length.

The authors' masked form, which selects among all queries, is `probsparse_leaky`.
"""

from math import ceil, exp, log
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
    """Queries whose scores are far from uniform attend; the rows of the others are the mean of the values."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2012.07436"
    parity = "transformers (Informer)"
    cost = "O((n + m) log(n) d), causal O(n m d)"
    accepts = {"factor": ">= 1"}
    checks = ({"factor": 2, "threshold": 1.0}, {"factor": 1, "threshold": 0.5})
    limits = ({"params": {"factor": 64, "threshold": -1.0}, "equals": "softmax"},)

    order: Tensor  # a random permutation of the source; the keys with its smallest entries are the sample
    positions: Tensor  # of the sample in CS

    def __init__(self, slot: Any, *, factor: int = 5, threshold: float = 3.0) -> None:
        super().__init__(slot)
        self.factor, self.threshold = factor, threshold
        if slot.pattern is Pattern.CS:
            self.register_buffer("positions", torch.tensor(sample_positions(factor, slot.max_len)), persistent=False)
        else:
            self.register_buffer("order", torch.randperm(slot.keys))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Select queries by their measure and attend; in CS and CC attend from all, and keep rows by the threshold."""
        measure = self._measure(q, k, key_mask)
        q = q * self.slot.dim**-0.5
        if self.slot.pattern.causal:
            return self._attend_by_threshold(q, k, v, measure, key_mask)
        positions, counted = select_queries(measure, self.factor, query_mask)
        seen = None if key_mask is None else key_mask[:, None, None, :]
        rows = masked_softmax(gather_rows(q, positions) @ k.transpose(-1, -2), seen) @ v
        return scatter_rows(rows, positions, counted, masked_mean(v, key_mask).expand(-1, -1, q.shape[2], -1))

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute algorithm 1; in CS and CC a threshold on the measure replaces the selection."""
        n, m, causal_self = q.shape[2], k.shape[2], self.slot.pattern is Pattern.CS
        sampled, selected = (min(self.factor * max(1, ceil(log(count))), count) for count in (m, n))
        sample = self.positions if causal_self else self.order[:m].argsort()[:sampled]
        scores = q @ k.mT / self.slot.dim**0.5
        counts = range(1, n + 1) if causal_self else [m] * n  # of the keys that each query may attend to
        heads = []
        for h in range(q.shape[1]):
            sampled_scores = [scores[0, h, i, sample[sample < count]] for i, count in enumerate(counts)]
            measure = torch.stack([row.max() - row.mean() for row in sampled_scores])
            largest = measure.argsort(descending=True, stable=True)[:selected].tolist()
            rows = []
            for i, count in enumerate(counts):
                attends = measure[i] > self.threshold if self.slot.pattern.causal else i in largest
                values = v[0, h, :count]
                rows.append(scores[0, h, i, :count].softmax(0) @ values if attends else values.mean(0))
            heads.append(torch.stack(rows))
        return torch.stack(heads)[None]

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores with the sample, and the attention of the selected queries (NS, NC) or of all (CS, CC)."""
        dim, size = self.slot.dim, self.slot.values
        sampled = sample_size(self.factor, m)
        if self.slot.pattern is Pattern.CS:
            sampled = len(sample_positions(self.factor, m))
        rows = n if self.slot.pattern.causal else sample_size(self.factor, n)
        return 2.0 * self.slot.heads * (n * sampled * dim + rows * m * (dim + size))

    def flops_needed(self, n: int, m: int) -> float:
        """Count in CS and CC the scores with the sample alone, in CS with its past: it may be that no query attends."""
        if not self.slot.pattern.causal:
            return self.flops(n, m)
        pairs = n * sample_size(self.factor, m)
        if self.slot.pattern is Pattern.CS:
            pairs = sum(n - position for position in sample_positions(self.factor, m))
        return 2.0 * self.slot.heads * pairs * self.slot.dim

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the caches: keys, values, which of them are real, and their positions."""
        batch, m = k.shape[0], k.shape[2]
        real = torch.ones(batch, m, dtype=torch.bool, device=k.device) if key_mask is None else key_mask
        return k, v, real, torch.arange(m, device=k.device).expand(batch, -1)

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the source (CC), or append the new tokens to the caches and attend to those up to each one (CS)."""
        keys, values, real, positions = state
        if k is None or v is None:
            return self.attend(q, keys, values, real), state
        new_real = key_mask
        if new_real is None:
            new_real = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
        position = real.sum(1, keepdim=True) + new_real.cumsum(1) - 1
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        real, positions = torch.cat([real, new_real], 1), torch.cat([positions, position], 1)
        seen = (real[:, None, :] & (positions[:, None, :] <= position[:, :, None]))[:, None]
        scores = (q * self.slot.dim**-0.5) @ keys.transpose(-1, -2)
        # the scores to measure by are as wide as those of `attend`: rounded ones would select other queries
        sampled = seen & torch.isin(positions, self.positions)[:, None, None, :]
        attends = sparsity_measure(sample_scores(q, keys), sampled) > self.threshold
        uniform = seen.to(v.dtype) / seen.sum(-1, keepdim=True).clamp(min=1)
        out = torch.where(attends[..., None], masked_softmax(scores, seen), uniform) @ values
        return out, (keys, values, real, positions)

    def _measure(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> Tensor:
        """Return the measure of each query by its scores with the sample: (batch, heads, n)."""
        if self.slot.pattern is not Pattern.CS:
            order = torch.randperm(self.slot.keys, device=k.device) if self.training else self.order
            positions, counted = sample_keys(order, self.factor, k.shape[2], key_mask)
            sample = gather_rows(k, positions[:, None])
            seen = None if counted is None else counted[:, None, None, :]
        else:
            positions = self.positions[: len(sample_positions(self.factor, k.shape[2]))]
            sample = k[:, :, positions]
            seen = positions <= torch.arange(q.shape[2], device=q.device)[:, None]
            if key_mask is not None:
                seen = seen & key_mask[:, None, None, positions]
        return sparsity_measure(sample_scores(q, sample), seen)

    def _attend_by_threshold(self, q: Tensor, k: Tensor, v: Tensor, measure: Tensor, key_mask: Tensor | None) -> Tensor:
        """Attend from all queries, and keep the rows whose measure exceeds the threshold; the others are means."""
        seen, causal = None, not self.slot.pattern.cross
        if key_mask is not None:
            seen = visible(self.slot.pattern, q.shape[2], k.shape[2], key_mask, q.device)
        rows = F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal and seen is None, scale=1.0)
        means = running_mean(v, key_mask) if causal else masked_mean(v, key_mask)
        return torch.where((measure > self.threshold)[..., None], rows, means)


def sample_positions(factor: int, length: int) -> list[int]:
    """Return positions below `length`: the first `factor`, then about factor ln i below each position i."""
    positions: list[int] = []
    while True:
        t = len(positions)
        position = t if t < factor else max(positions[-1] + 1, ceil(factor * exp((t - factor) / factor)))
        if position >= length:
            return positions
        positions.append(position)
