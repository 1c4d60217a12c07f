"""Locality-sensitive hashing (Reformer, arXiv 2001.04451, section 2): buckets of similar vectors, in several rounds.

In each round tokens are sorted by bucket and attend to neighbours in that order. The rounds are then merged into one
softmax.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import at_least_float32, full_precision


def random_rotations(heads: int, dim: int, rounds: int, buckets: int) -> Tensor:
    """Draw the projections of angular hashing (Andoni et al., arXiv 1509.02897): (heads, rounds, dim, buckets / 2)."""
    return torch.randn(heads, rounds, dim, buckets // 2)


def bucket_count(max_len: int, size: int) -> int:
    """Return an even number of buckets, at least 2, so that `max_len` tokens give about `size` a bucket."""
    return max(2, 2 * round(max_len / (2 * size)))


def hash_tokens(x: Tensor, rotations: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the bucket of each token of x (batch, heads, n, dim) in each round: (batch, heads, rounds, n).

    The bucket is the argmax of [x R, -x R], with R from `random_rotations`. The product is in float32 at least, so that
    rounding moves few tokens. Masked tokens, by a mask (batch, n), get a bucket of their own after all others.
    """
    wide = at_least_float32(x)
    with full_precision(x.device.type):
        rotated = x.detach().to(wide).unsqueeze(2) @ rotations.to(wide)
    bucket = torch.cat([rotated, -rotated], -1).argmax(-1)
    return bucket if mask is None else bucket.masked_fill(~mask[:, None, None, :], 2 * rotations.shape[3])


def sort_by_bucket(bucket: Tensor) -> tuple[Tensor, Tensor]:
    """Return the permutation that sorts tokens by bucket (batch, heads, n), then by position, and its inverse."""
    order = bucket.argsort(dim=2, stable=True)
    rank = torch.empty_like(order).scatter_(
        2, order, torch.arange(order.shape[2], device=order.device).expand_as(order)
    )
    return order, rank


def permute_tokens(t: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """Return the tokens of t (batch, heads, n, size) in the order of a permutation (batch, heads, n).

    The gradient of a permutation is its inverse. Whole rows are copied both ways, and nothing is accumulated.
    """
    out: Tensor = _Permutation.apply(t, order, inverse)  # type: ignore[no-untyped-call]
    return out


class _Permutation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return _select_rows(t, order)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return permute_tokens(grad_out, inverse, order), None, None


def _select_rows(t: Tensor, index: Tensor) -> Tensor:
    batch, heads, n, size = t.shape
    start = torch.arange(batch * heads, device=t.device).unsqueeze(1) * n
    return t.reshape(-1, size).index_select(0, (index.flatten(0, 1) + start).flatten()).view_as(t)


def unit_keys(q: Tensor) -> Tensor:
    """Return the keys that go with shared queries: the queries, normalised to length 1."""
    # in float32, since the epsilon that keeps a token of zeros from 0 / 0 is zero in float16
    return F.normalize(q.to(at_least_float32(q)), dim=-1).to(q.dtype)


def merge_rounds(outs: list[Tensor], log_sums: list[Tensor]) -> Tensor:
    """Merge attention of several rounds into one softmax, where each weighs as much as its scores sum to.

    outs are (batch, heads, n, size), log_sums of the scores are (batch, heads, n, 1).
    """
    share = torch.stack(log_sums).softmax(0).to(outs[0].dtype)
    return (share * torch.stack(outs)).sum(0)


def blocks_spanned(tokens: int, block: int) -> int:
    """Return how many whole blocks hold so many tokens."""
    return -(-tokens // block)
