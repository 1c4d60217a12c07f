"""Queries that choose where they look, put into blocks of those that look at the same place.

The number of blocks is fixed by the sizes alone, whatever is chosen, so nothing waits for a value.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def most_blocks(n: int, buckets: int, size: int) -> int:
    """Return how many blocks of `size` places n queries fill at most, if a block holds queries of one bucket."""
    return min(n, (n + buckets * (size - 1)) // size)


def assigned(bucket: Tensor, buckets: int, size: int) -> tuple[Tensor, Tensor]:
    """Give each query a place in a block of its own bucket.

    bucket is (batch, heads, n), below `buckets`. Returns the places, (batch, heads, n), below blocks * size, no two
    equal in a head, and the bucket of each block, (batch, heads, blocks).
    """
    n = bucket.shape[2]
    blocks = most_blocks(n, buckets, size)
    order = bucket.argsort(dim=2)
    members = bucket.new_zeros(*bucket.shape[:2], buckets).scatter_add(2, bucket, torch.ones_like(bucket))
    used = -(-members // size)
    # a query stands as far behind its bucket's first place as behind its bucket's first query in sorted order
    shift = (used.cumsum(2) - used) * size - (members.cumsum(2) - members)
    rank = torch.zeros_like(bucket).scatter(2, order, torch.arange(n, device=bucket.device).expand_as(order))
    place = rank + shift.gather(2, bucket)
    of_block = bucket.new_zeros(*bucket.shape[:2], blocks).scatter(2, place // size, bucket)
    return place, of_block


def spread(t: Tensor, place: Tensor, blocks: int, size: int) -> Tensor:
    """Put t (batch, heads, n, features) at its places: (batch, heads, blocks, size, features), zeros between."""
    out: Tensor = _Spread.apply(t, place, blocks * size)  # type: ignore[no-untyped-call]
    return torch.unflatten(out, 2, (blocks, size))


def collected(t: Tensor, place: Tensor) -> Tensor:
    """Undo `spread`: take from t (batch, heads, blocks, size, features) what stands at the places."""
    out: Tensor = _Collected.apply(t.flatten(2, 3), place)  # type: ignore[no-untyped-call]
    return out


def tables_of(t: Tensor, index: Tensor) -> Tensor:
    """Take from t (batch, heads, tables, ...) each head's tables at index (batch, heads, ...), as whole rows."""
    batch, heads, tables = t.shape[:3]
    start = torch.arange(batch * heads, device=t.device).view(batch, heads, *[1] * (index.dim() - 2)) * tables
    rows = t.reshape(batch * heads * tables, -1)
    found = F.embedding(index + start, rows) if t.is_floating_point() else rows[index + start]
    return found.view(*index.shape, *t.shape[3:])


# No two queries have one place, so each gradient is the other's copy of rows, and nothing is added up.


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, place: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(place)
        batch, heads, _, features = t.shape
        empty = t.new_zeros(batch * heads * length, features)
        out = empty.index_copy_(0, _flat(place, length), t.reshape(-1, features))
        return out.view(batch, heads, length, features)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:
        return _Collected.apply(of_out, *ctx.saved_tensors), None, None  # type: ignore[no-untyped-call]


class _Collected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.length = t.shape[2]
        return t.reshape(-1, t.shape[3]).index_select(0, _flat(place, t.shape[2])).view(*place.shape, -1)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None]:
        return _Spread.apply(of_out, *ctx.saved_tensors, ctx.length), None  # type: ignore[no-untyped-call]


def _flat(place: Tensor, length: int) -> Tensor:
    start = torch.arange(place.shape[0] * place.shape[1], device=place.device).view(*place.shape[:2], 1) * length
    return (place + start).flatten()
