"""Blocks of tokens compared and sorted: doubly stochastic matrices for noncausal patterns, picks for causal ones.

For `mechanisms/sinkhorn.py` (sparse Sinkhorn attention, arXiv 2002.11296).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.buckets import gather_tables
from cab.ops.precision import at_least_float32
from cab.ops.prefix import chunked
from cab.ops.softmax import masked_softmax

FLOOR = -1e30  # the logarithm of zero: finite, since the difference of two infinities is not a number


def sinkhorn(scores: Tensor, rows: Tensor, columns: Tensor, iterations: int) -> Tensor:
    """Return exp(scores) scaled to sums of 1, columns and rows in turn, rows last (Sinkhorn normalisation).

    scores is (batch, heads, r, c). The masks rows (batch or 1, r) and columns (batch or 1, c) say where the result may
    differ from zero.
    """
    counts = rows[:, None, :, None] & columns[:, None, None, :]
    scores = scores.masked_fill(~counts, FLOOR)
    for _ in range(iterations):
        for axis in (2, 3):
            scores = scores.log_softmax(axis).masked_fill(~counts, FLOOR)
    return scores.exp()


def gumbel_noise(like: Tensor) -> Tensor:
    """Draw noise of the Gumbel distribution in the shape of a tensor."""
    return -torch.empty_like(like).exponential_().log()


def full_mask(t: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mask of the tokens of t (batch, heads, n, ·): `mask`, or (1, n) of True if it is None."""
    return torch.ones(1, t.shape[2], dtype=torch.bool, device=t.device) if mask is None else mask


def mask_blocks(mask: Tensor, size: int) -> Tensor:
    """Cut a mask (batch or 1, n) into blocks (batch or 1, blocks, size); the last one is filled with False."""
    return torch.unflatten(F.pad(mask, (0, -mask.shape[1] % size), value=False), 1, (-1, size))


def block_means(t: Tensor, mask: Tensor | None, size: int) -> Tensor:
    """Average the unmasked tokens of each block of t (batch, heads, n, features): (batch, heads, blocks, features).

    The result is in float32 at least.
    """
    count = mask_blocks(full_mask(t, mask), size).sum(2).clamp(min=1)[:, None, :, None]
    t = t.to(at_least_float32(t))
    return chunked(t if mask is None else t * mask[:, None, :, None], size).sum(3) / count


def prefix_means(t: Tensor, mask: Tensor) -> Tensor:
    """Return at each token of t (batch, heads, n, features) the mean of the unmasked tokens up to it.

    mask is (batch or 1, n). The result is in float32 at least.
    """
    t = t.to(at_least_float32(t))
    return (t * mask[:, None, :, None]).cumsum(2) / mask.cumsum(1).clamp(min=1)[:, None, :, None]


def continue_prefix_means(total: Tensor, count: Tensor, t: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Continue `prefix_means` after `count` (batch,) tokens, whose sum is `total` (batch, heads, 1, features).

    Return the means at the tokens of t, and the new total.
    """
    sums = total + (t.to(total.dtype) * mask[:, None, :, None]).cumsum(2)
    return sums / (count.unsqueeze(1) + mask.cumsum(1)).clamp(min=1)[:, None, :, None], sums[:, :, -1:]


def last_marked(t: Tensor, initial: Tensor, marked: Tensor) -> Tensor:
    """Return at each token the entry of t at the last marked token up to it, or `initial` if there is none.

    t is (batch, heads, n, features), initial is (batch, heads, 1, features), marked is boolean, (batch, n).
    """
    index = (marked * torch.arange(1, marked.shape[1] + 1, device=t.device)).cummax(1).values
    return torch.cat([initial, t], 2).gather(2, index[:, None, :, None].expand_as(t))


def pick_blocks(scores: Tensor, past: Tensor, picks: int) -> tuple[Tensor, Tensor]:
    """Pick blocks for each row, one after another, each by the largest weight of a softmax over those not yet picked.

    scores is (batch, heads, rows, blocks). Blocks can be picked where `past`, and so can `picks` empty blocks, which
    score 0. Return the indices (batch, heads, rows, picks), negative for an empty block, and the weight that each had
    when it was picked.
    """
    scores = F.pad(scores, (picks, 0))
    available = torch.cat([past.new_ones(*past.shape[:-1], picks), past], -1)
    indices, weights = [], []
    for _ in range(picks):
        weight, index = masked_softmax(scores, available).max(3, keepdim=True)
        indices.append(index - picks)
        weights.append(weight)
        available = available & (torch.arange(scores.shape[3], device=scores.device) != index)
    return torch.cat(indices, 3), torch.cat(weights, 3)


def gather_weighted(blocks: Tensor, index: Tensor, weight: Tensor, empty: Tensor) -> Tensor:
    """Take the picked blocks, each times its weight.

    blocks is (batch, heads, blocks, size, features), index and weight are (batch, heads, rows, picks). Where the index
    is negative, all tokens of the block are `empty` (heads, 1, features). Return (batch, heads, rows, picks * size,
    features).
    """
    picked = gather_tables(blocks, index.clamp(min=0))
    picked = torch.where(index[..., None, None] < 0, empty.to(blocks.dtype)[:, None, None], picked)
    return (picked * weight[..., None, None].to(blocks.dtype)).flatten(3, 4)


def attend_own_keys(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Let each query attend to keys of its own.

    q (batch, heads, n, dim) is scaled, k and v are (batch, heads, n, keys, ·), `seen` broadcasts to (batch, heads, n,
    keys).
    """
    weights = masked_softmax((q.unsqueeze(3) @ k.transpose(-1, -2)).squeeze(3), seen)
    return (weights.unsqueeze(3) @ v).squeeze(3)
