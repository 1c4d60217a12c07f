"""Blocks of tokens, and matrices that sort them softly."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.buckets import tables_of
from cab.ops.prefix import chunked
from cab.ops.softmax import masked_softmax

FLOOR = -1e30  # the logarithm of what is nothing: finite, since the difference of two infinities is not a number


def sinkhorn(scores: Tensor, rows: Tensor, columns: Tensor, iterations: int) -> Tensor:
    """Return exp(scores) scaled to sums of 1, columns and rows in turn, rows last; what does not count is zero.

    scores is (batch, heads, r, c); rows (batch or 1, r) and columns (batch or 1, c) say which count.
    """
    counts = rows[:, None, :, None] & columns[:, None, None, :]
    scores = scores.masked_fill(~counts, FLOOR)
    for _ in range(iterations):
        for axis in (2, 3):
            scores = scores.log_softmax(axis).masked_fill(~counts, FLOOR)
    return scores.exp()


def means_so_far(t: Tensor, real: Tensor) -> Tensor:
    """Return at each token the mean of the real ones up to it, in float32 at least; real is (batch or 1, n)."""
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    return (t * real[:, None, :, None]).cumsum(2) / real.cumsum(1).clamp(min=1)[:, None, :, None]


def gumbel(like: Tensor) -> Tensor:
    """Draw noise of Gumbel's distribution."""
    return -torch.empty_like(like).exponential_().log()


def all_real(t: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask of t's tokens; (1, n) of True where none is given."""
    return torch.ones(1, t.shape[2], dtype=torch.bool, device=t.device) if mask is None else mask


def mask_blocks(real: Tensor, size: int) -> Tensor:
    """Cut a mask (batch or 1, n) into (batch or 1, blocks, size), False at the end."""
    return torch.unflatten(F.pad(real, (0, -real.shape[1] % size), value=False), 1, (-1, size))


def block_means(t: Tensor, mask: Tensor | None, size: int) -> Tensor:
    """Average the real tokens of each block, in float32 at least: (batch, heads, blocks, features)."""
    count = mask_blocks(all_real(t, mask), size).sum(2).clamp(min=1)[:, None, :, None]
    t = t.to(torch.promote_types(t.dtype, torch.float32))
    return chunked(t if mask is None else t * mask[:, None, :, None], size).sum(3) / count


def picked(scores: Tensor, past: Tensor, picks: int) -> tuple[Tensor, Tensor]:
    """Pick among the blocks where `past`, and as many times nothing, one after another, each by a softmax.

    scores is (batch, heads, rows, blocks). Returns which, (batch, heads, rows, picks), below 0 for nothing, and the
    weight that each had when it was picked.
    """
    scores = F.pad(scores, (picks, 0))
    seen = torch.cat([past.new_ones(*past.shape[:-1], picks), past], -1)
    indices, shares = [], []
    for _ in range(picks):
        share, index = masked_softmax(scores, seen).max(3, keepdim=True)
        indices.append(index - picks)
        shares.append(share)
        seen = seen & (torch.arange(scores.shape[3], device=scores.device) != index)
    return torch.cat(indices, 3), torch.cat(shares, 3)


def gathered(blocks: Tensor, index: Tensor, share: Tensor, nothing: Tensor) -> Tensor:
    """Take blocks (batch, heads, blocks, size, features) at index (batch, heads, rows, picks), times their shares.

    Below 0 stands `nothing` (heads, 1, features). Returns (batch, heads, rows, picks * size, features).
    """
    found = tables_of(blocks, index.clamp(min=0))
    found = torch.where(index[..., None, None] < 0, nothing.to(blocks.dtype)[:, None, None], found)
    return (found * share[..., None, None].to(blocks.dtype)).flatten(3, 4)


def means_on(total: Tensor, count: Tensor, t: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Continue `means_so_far` after tokens whose sum is `total` (batch, heads, 1, features), `count` (batch,) of them.

    Returns the means, and the sum with those of t.
    """
    sums = total + (t.to(total.dtype) * real[:, None, :, None]).cumsum(2)
    return sums / (count.unsqueeze(1) + real.cumsum(1)).clamp(min=1)[:, None, :, None], sums[:, :, -1:]


def latest(t: Tensor, before: Tensor, marked: Tensor) -> Tensor:
    """Return at each token what t holds at the last one that is marked (batch, n), itself included; else `before`."""
    index = (marked * torch.arange(1, marked.shape[1] + 1, device=t.device)).cummax(1).values
    return torch.cat([before, t], 2).gather(2, index[:, None, :, None].expand_as(t))


def one_by_one(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Let each query, scaled, read keys of its own: k and v are (batch, heads, n, keys, ·)."""
    weights = masked_softmax((q.unsqueeze(3) @ k.transpose(-1, -2)).squeeze(3), seen)
    return (weights.unsqueeze(3) @ v).squeeze(3)
