"""ProbSparse attention (Zhou et al., arXiv 2012.07436): only the queries whose scores are far from uniform attend.

The sparsity measure of a query is the maximum minus the mean of its scores with a sample of the keys (equation 4). The
sample holds c ln L of L keys, and c ln L of L queries are selected.
"""

from math import ceil, log

import torch
from torch import Tensor

from cab.ops.precision import at_least_float32, full_precision

LEAST = -1e30  # the measure of a query that sees no sampled key: finite, and below any other


def sample_size(factor: int, count: int) -> int:
    """Return factor * ceil(ln count), at least factor and at most count."""
    return min(factor * max(1, ceil(log(count))), count) if count else 0


def sample_sizes(factor: int, mask: Tensor) -> Tensor:
    """Return `sample_size` for the number of unmasked tokens in each row of a mask (batch, length): (batch, 1)."""
    count = mask.sum(1, keepdim=True)
    return (factor * count.clamp(min=1).double().log().ceil().clamp(min=1)).long().minimum(count)


def sample_keys(order: Tensor, factor: int, length: int, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the positions of the sampled keys (batch or 1, sample), and which of these entries count, or None for all.

    `order` is a random permutation with an entry for each position of the source. The sample are the unmasked positions
    with the smallest entries, so that a masked tail changes nothing. mask is (batch, length).
    """
    order, size = order[:length], sample_size(factor, length)
    if mask is None:
        return order.argsort()[None, :size], None
    positions = order.masked_fill(~mask, torch.iinfo(order.dtype).max).argsort(1)[:, :size]
    return positions, torch.arange(size, device=mask.device) < sample_sizes(factor, mask)


def sample_scores(q: Tensor, keys: Tensor) -> Tensor:
    """Return the scores of q (..., n, dim) with sampled keys (..., sample, dim), divided by sqrt(dim).

    They are in float32 at least: rounded scores would select other queries.
    """
    with full_precision(q.device.type):
        scaled, keys = q.to(at_least_float32(q)) * q.shape[3] ** -0.5, keys.to(at_least_float32(keys))
        scores: Tensor = scaled @ keys.transpose(-1, -2)
    return scores


def sparsity_measure(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Return the maximum minus the mean of scores (..., n, sample) over the last axis, where `seen`: (..., n)."""
    if seen is None:
        return scores.amax(-1) - scores.mean(-1)
    count = seen.sum(-1)
    maximum = scores.masked_fill(~seen, -torch.inf).amax(-1)
    mean = scores.masked_fill(~seen, 0.0).sum(-1) / count.clamp(min=1)
    return (maximum - mean).masked_fill(count == 0, LEAST)


def select_queries(measure: Tensor, factor: int, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the positions of the queries with the largest measures, and which of these entries count.

    measure is (batch, heads, n), mask is (batch, n). Both results are (batch, heads, selected); the second is None if
    all count. Of two equal measures the earlier one comes first, whatever is masked after them.
    """
    size = sample_size(factor, measure.shape[2])
    if mask is None:
        return measure.sort(dim=2, descending=True, stable=True)[1][:, :, :size], None
    measure = measure.masked_fill(~mask[:, None, :], 2 * LEAST)
    positions = measure.sort(dim=2, descending=True, stable=True)[1][:, :, :size]
    counts = torch.arange(size, device=mask.device) < sample_sizes(factor, mask)
    return positions, counts[:, None, :].expand(positions.shape)


def gather_rows(t: Tensor, positions: Tensor) -> Tensor:
    """Take from t (batch, heads, length, size) each head's tokens at positions (batch or 1, heads or 1, count)."""
    return t.gather(2, positions[..., None].expand(t.shape[0], t.shape[1], -1, t.shape[3]))


def scatter_rows(rows: Tensor, positions: Tensor, counts: Tensor | None, into: Tensor) -> Tensor:
    """Return `into` (batch, heads, length, size) with rows (batch, heads, count, size) at positions, where they count.

    positions and counts are (batch, heads, count).
    """
    index, rows = positions[..., None].expand_as(rows), rows.to(into.dtype)
    if counts is not None:
        rows = torch.where(counts[..., None], rows, into.gather(2, index))
    return into.scatter(2, index, rows)
