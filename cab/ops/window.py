"""Softmax over a sliding window of keys, in blocks of queries, with no loop over tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.softmax import masked_softmax


def banded_softmax(
    q: Tensor, k: Tensor, v: Tensor, before: int, after: int, block: int, key_mask: Tensor | None = None, past: int = 0
) -> Tensor:
    """Return softmax attention of each query to itself, `before` keys before it and `after` keys after it.

    q is (batch, heads, n, dim), scaled; k and v hold `past` keys (at most `before`) and then one for each query. A
    block of queries sees one stretch of block + before + after keys; where that is all of them, there are no blocks.
    """
    n, m = q.shape[2], k.shape[2]
    width = block + before + after
    if width >= m:
        key = torch.arange(m, device=q.device)
        ahead = key - (torch.arange(n, device=q.device) + past).unsqueeze(1)
        seen = (ahead >= -before) & (ahead <= after)
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, :]
        return masked_softmax(q @ k.transpose(-1, -2), seen) @ v
    tail = -n % block
    edges = (before - past, tail + after)
    k, v = (F.pad(t, (0, 0, *edges)).unfold(2, width, block) for t in (k, v))  # (batch, heads, blocks, size, width)
    real = torch.ones(1, m, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
    real = F.pad(real, edges, value=False).unfold(1, width, block)
    ahead = torch.arange(width, device=q.device) - torch.arange(block, device=q.device).unsqueeze(1)
    seen = real[:, None, :, None, :] & (ahead >= 0) & (ahead <= before + after)
    weights = masked_softmax(torch.unflatten(F.pad(q, (0, 0, 0, tail)), 2, (-1, block)) @ k, seen)
    return (weights @ v.transpose(-1, -2)).flatten(2, 3)[:, :, :n]


def banded_pairs(n: int, before: int, after: int, block: int) -> int:
    """Count the pairs of query and key for which `banded_softmax` of n tokens computes a score."""
    width = block + before + after
    return n * n if width >= n else -(-n // block) * block * width


def window_pairs(n: int, before: int, after: int) -> int:
    """Count the pairs of query and key in the window."""

    def one_side(reach: int) -> int:
        reach = min(reach, n - 1)
        return n * reach - reach * (reach + 1) // 2

    return n + one_side(before) + one_side(after)
