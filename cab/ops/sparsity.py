"""ProbSparse attention (Zhou et al., arXiv 2012.07436): which queries' scores are far from uniform.

The measure is equation 4's, max minus mean of the scores of a query with a sample of the keys; c ln L of L keys are
sampled, and c ln L of L queries selected.
"""

from math import ceil, log

import torch
from torch import Tensor

from cab.ops.precision import at_least_float32, full_precision

LEAST = -1e30  # the measure of a query that sees no sampled key: below any other, and finite


def budget(factor: int, count: int) -> int:
    """Return factor times ceil(ln count), at least factor and at most count."""
    return min(factor * max(1, ceil(log(count))), count) if count else 0


def budgets(factor: int, mask: Tensor) -> Tensor:
    """Return the same for the number of real tokens in each row of a mask: (batch, 1)."""
    count = mask.sum(1, keepdim=True)
    return (factor * count.clamp(min=1).double().log().ceil().clamp(min=1)).long().minimum(count)


def sampled(order: Tensor, factor: int, length: int, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the places of the sampled keys (batch or 1, most), and which of them count, or None for all.

    `order` is another whole number for each place of the source: a sample is the real places with the smallest, so
    that a masked tail changes nothing.
    """
    order, most = order[:length], budget(factor, length)
    if mask is None:
        return order.argsort()[None, :most], None
    places = order.masked_fill(~mask, torch.iinfo(order.dtype).max).argsort(1)[:, :most]
    return places, torch.arange(most, device=mask.device) < budgets(factor, mask)


def sample_scores(q: Tensor, some: Tensor) -> Tensor:
    """Return the scores of q with sampled keys over sqrt(dim), in float32 at least: rounded, others would stand out."""
    with full_precision(q.device.type):
        scores: Tensor = (q.to(at_least_float32(q)) * q.shape[3] ** -0.5) @ some.to(at_least_float32(some)).transpose(
            -1, -2
        )
    return scores


def measure(scores: Tensor, seen: Tensor | None) -> Tensor:
    """Return max minus mean over the last axis of `scores` where `seen`."""
    if seen is None:
        return scores.amax(-1) - scores.mean(-1)
    count = seen.sum(-1)
    most = scores.masked_fill(~seen, -torch.inf).amax(-1)
    mean = scores.masked_fill(~seen, 0.0).sum(-1) / count.clamp(min=1)
    return (most - mean).masked_fill(count == 0, LEAST)


def selected(measured: Tensor, factor: int, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the places of the queries (batch, heads, most) whose measure is largest, and which of them count.

    The earlier of two equals goes first, whatever is masked after them.
    """
    most = budget(factor, measured.shape[2])
    if mask is None:
        return measured.sort(dim=2, descending=True, stable=True)[1][:, :, :most], None
    measured = measured.masked_fill(~mask[:, None, :], 2 * LEAST)
    places = measured.sort(dim=2, descending=True, stable=True)[1][:, :, :most]
    counted = torch.arange(most, device=mask.device) < budgets(factor, mask)
    return places, counted[:, None, :].expand(places.shape)


def rows_of(t: Tensor, places: Tensor) -> Tensor:
    """Take from t (batch, heads, length, size) each head's tokens at places (batch or 1, 1 or heads, count)."""
    return t.gather(2, places[..., None].expand(t.shape[0], t.shape[1], -1, t.shape[3]))


def put(rows: Tensor, places: Tensor, counted: Tensor | None, into: Tensor) -> Tensor:
    """Put rows (batch, heads, count, size) at places of `into` (batch, heads, length, size), where they count."""
    index, rows = places[..., None].expand_as(rows), rows.to(into.dtype)
    if counted is not None:
        rows = torch.where(counted[..., None], rows, into.gather(2, index))
    return into.scatter(2, index, rows)
