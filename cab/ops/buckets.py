"""Queries that choose where they look, put into blocks of those that look at the same place.

The number of blocks is fixed by the sizes alone, whatever is chosen, so nothing waits for a value.
"""

import torch
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
    batch, heads, _, features = t.shape
    empty = t.new_zeros(batch, heads, blocks * size, features)
    return empty.scatter(2, place.unsqueeze(3).expand_as(t), t).view(batch, heads, blocks, size, features)


def collected(t: Tensor, place: Tensor) -> Tensor:
    """Undo `spread`: take from t (batch, heads, blocks, size, features) what stands at the places."""
    return t.flatten(2, 3).gather(2, place.unsqueeze(3).expand(-1, -1, -1, t.shape[4]))
