"""Locality-sensitive hashing: like vectors into one bucket, buckets side by side, all rounds in one softmax."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import at_least_float32, full_precision


def rotations(heads: int, dim: int, rounds: int, buckets: int) -> Tensor:
    """Draw the projections of angular hashing (Andoni et al., arXiv 1509.02897): (heads, rounds, dim, buckets / 2)."""
    return torch.randn(heads, rounds, dim, buckets // 2)


def even_buckets(max_len: int, size: int) -> int:
    """Return how many buckets hold `size` of `max_len` tokens each on average: even, and at least 2."""
    return max(2, 2 * round(max_len / (2 * size)))


def hashed(x: Tensor, rotation: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the bucket of each token of x (batch, heads, n, dim) in each round: (batch, heads, rounds, n).

    argmax over [x R, -x R], in float32 at least, so that rounding moves few tokens; masked ones have a bucket of
    their own after all others.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with full_precision(x.device.type):
        turned = x.detach().to(wide).unsqueeze(2) @ rotation.to(wide)
    bucket = torch.cat([turned, -turned], -1).argmax(-1)
    return bucket if mask is None else bucket.masked_fill(~mask[:, None, None, :], 2 * rotation.shape[3])


def side_by_side(bucket: Tensor) -> tuple[Tensor, Tensor]:
    """Return the order that puts buckets (batch, heads, n) side by side, in them by position, and each token's rank."""
    order = bucket.argsort(dim=2, stable=True)
    rank = torch.empty_like(order).scatter_(
        2, order, torch.arange(order.shape[2], device=order.device).expand_as(order)
    )
    return order, rank


def along(t: Tensor, order: Tensor, rank: Tensor) -> Tensor:
    """Put the tokens of t (batch, heads, n, size) into an order, of which `rank` is the inverse.

    The gradient of a permutation is its inverse: whole rows are copied both ways, and nothing is added up.
    """
    out: Tensor = _Permuted.apply(t, order, rank)  # type: ignore[no-untyped-call]
    return out


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, order: Tensor, rank: Tensor) -> Tensor:
        ctx.save_for_backward(order, rank)
        return _rows(t, order)

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:
        order, rank = ctx.saved_tensors
        return along(of_out, rank, order), None, None


def _rows(t: Tensor, index: Tensor) -> Tensor:
    batch, heads, n, size = t.shape
    start = torch.arange(batch * heads, device=t.device).unsqueeze(1) * n
    return t.reshape(-1, size).index_select(0, (index.flatten(0, 1) + start).flatten()).view_as(t)


def unit(x: Tensor) -> Tensor:
    """Return the keys that belong to shared queries: of length 1."""
    return F.normalize(x.to(at_least_float32(x)), dim=-1).to(
        x.dtype
    )  # what keeps a token of zeros is nothing in float16


def merged(outs: list[Tensor], totals: list[Tensor]) -> Tensor:
    """Make one softmax of those of several rounds: each weighs as much as its scores sum to."""
    share = torch.stack(totals).softmax(0).to(outs[0].dtype)
    return (share * torch.stack(outs)).sum(0)


def stretch_of(reach: int, block: int) -> int:
    """Return how many whole blocks hold `reach` tokens."""
    return -(-reach // block)
