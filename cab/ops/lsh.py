"""Locality-sensitive hashing: like vectors into one bucket, buckets side by side, all rounds in one softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = -1e30  # the score of what is hidden: finite, since the difference of two infinities is not a number
SELF = -5e4  # the score of a token with itself: it counts where nothing else is seen


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


def along(t: Tensor, index: Tensor) -> Tensor:
    """Take from t (batch, heads, n, size) the tokens at index (batch, heads, count)."""
    return t.gather(2, index.unsqueeze(3).expand(-1, -1, -1, t.shape[3]))


def unit(x: Tensor) -> Tensor:
    """Return the keys that belong to shared queries: of length 1."""
    return F.normalize(x, dim=-1)


def read(scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) v and the log-sums of the scores, in float32 at least; hidden scores are `FLOOR`."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    largest = scores.detach().amax(-1, keepdim=True)
    weights = (scores - largest).exp()
    total = weights.sum(-1, keepdim=True)
    return (weights.to(v.dtype) @ v) / total.to(v.dtype), largest + total.log()


def merged(outs: list[Tensor], totals: list[Tensor]) -> Tensor:
    """Make one softmax of those of several rounds: each weighs as much as its scores sum to."""
    share = torch.stack(totals).softmax(0).to(outs[0].dtype)
    return (share * torch.stack(outs)).sum(0)


def stretch_of(reach: int, block: int) -> int:
    """Return how many whole blocks hold `reach` tokens."""
    return -(-reach // block)


def in_stretches(t: Tensor, before: int, after: int, block: int, fill: int = 0) -> Tensor:
    """Put each block of t (batch, heads, n, size) together with whole blocks before and after it.

    Returns (batch, heads, blocks, (before + 1 + after) * block, size).
    """
    t = in_blocks(t, block, fill)
    count = t.shape[2]
    t = F.pad(t, (0, 0, 0, 0, before, after), value=fill)
    return torch.cat([t[:, :, i : i + count] for i in range(before + 1 + after)], 3)


def in_blocks(t: Tensor, block: int, fill: int = 0) -> Tensor:
    """Cut t (batch, heads, n, size) into (batch, heads, blocks, block, size)."""
    return torch.unflatten(F.pad(t, (0, 0, 0, -t.shape[2] % block), value=fill), 2, (-1, block))
