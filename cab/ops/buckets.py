"""Queries sorted by bucket (cluster, range of the source) into blocks of one bucket each, which read keys together.

The number of blocks follows from the sizes alone, not from the buckets, so no device waits for a value.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def max_blocks(n: int, buckets: int, size: int) -> int:
    """Return how many blocks of `size` queries n queries need at most, if a block holds queries of one bucket."""
    return min(n, (n + buckets * (size - 1)) // size)


def assign_blocks(bucket: Tensor, buckets: int, size: int) -> tuple[Tensor, Tensor]:
    """Assign each query a position in a block of its bucket.

    bucket (batch, heads, n) is below `buckets`. Returns the positions (batch, heads, n), distinct within a head and
    below max_blocks * size, and the bucket of each block (batch, heads, max_blocks).
    """
    n = bucket.shape[2]
    blocks = max_blocks(n, buckets, size)
    order = bucket.argsort(dim=2)
    count = bucket.new_zeros(*bucket.shape[:2], buckets).scatter_add(2, bucket, torch.ones_like(bucket))
    blocks_used = -(-count // size)
    # of each bucket: the position of its first block, minus the number of queries in the buckets before it
    shift = (blocks_used.cumsum(2) - blocks_used) * size - (count.cumsum(2) - count)
    rank = torch.zeros_like(bucket).scatter(2, order, torch.arange(n, device=bucket.device).expand_as(order))
    position = rank + shift.gather(2, bucket)
    block_bucket = bucket.new_zeros(*bucket.shape[:2], blocks).scatter(2, position // size, bucket)
    return position, block_bucket


def scatter_to_blocks(t: Tensor, position: Tensor, blocks: int, size: int) -> Tensor:
    """Put the tokens of t (batch, heads, n, features) at their positions (batch, heads, n), distinct within a head.

    The result is (batch, heads, blocks, size, features), with zeros at free positions.
    """
    out: Tensor = _ScatterRows.apply(t, position, blocks * size)  # type: ignore[no-untyped-call]
    return torch.unflatten(out, 2, (blocks, size))


def gather_from_blocks(t: Tensor, position: Tensor) -> Tensor:
    """Invert `scatter_to_blocks`: t (batch, heads, blocks, size, features) gives (batch, heads, n, features)."""
    out: Tensor = _GatherRows.apply(t.flatten(2, 3), position)  # type: ignore[no-untyped-call]
    return out


def gather_tables(t: Tensor, index: Tensor) -> Tensor:
    """Take from t (batch, heads, tables, ...) the tables of each head at index (batch, heads, ...).

    The result is (*index.shape, ...). Each table is copied as one row.
    """
    batch, heads, tables = t.shape[:3]
    start = torch.arange(batch * heads, device=t.device).view(batch, heads, *[1] * (index.dim() - 2)) * tables
    rows = t.reshape(batch * heads * tables, -1)
    selected = F.embedding(index + start, rows) if t.is_floating_point() else rows[index + start]
    return selected.view(*index.shape, *t.shape[3:])


# Positions are distinct, so the gradient of each of these two is the other one, and nothing is accumulated.


class _ScatterRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, position: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(position)
        batch, heads, _, features = t.shape
        zeros = t.new_zeros(batch * heads * length, features)
        out = zeros.index_copy_(0, _flat_index(position, length), t.reshape(-1, features))
        return out.view(batch, heads, length, features)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        return _GatherRows.apply(grad_out, *ctx.saved_tensors), None, None  # type: ignore[no-untyped-call]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, position: Tensor) -> Tensor:
        ctx.save_for_backward(position)
        ctx.length = t.shape[2]
        rows = t.reshape(-1, t.shape[3]).index_select(0, _flat_index(position, t.shape[2]))
        return rows.view(*position.shape, -1)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        return _ScatterRows.apply(grad_out, *ctx.saved_tensors, ctx.length), None  # type: ignore[no-untyped-call]


def _flat_index(position: Tensor, length: int) -> Tensor:
    """Return positions (batch, heads, n) as indices into the rows of a tensor (batch * heads * length, features)."""
    start = torch.arange(position.shape[0] * position.shape[1], device=position.device)
    return (position + start.view(*position.shape[:2], 1) * length).flatten()
