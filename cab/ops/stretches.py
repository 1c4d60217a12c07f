"""Blocks of tokens, each put together with whole blocks beside it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def beside(t: Tensor, before: int, after: int, fill: int = 0) -> Tensor:
    """Put each block of t (batch, heads, blocks, block, size) together with those before and after it.

    Returns (batch, heads, blocks, (before + 1 + after) * block, size); beyond the ends stands `fill`.
    """
    if not before and not after:
        return t
    count = t.shape[2]
    t = F.pad(t, (0, 0, 0, 0, before, after), value=fill)
    return torch.cat([t[:, :, i : i + count] for i in range(before + 1 + after)], 3)


def added_back(t: Tensor, before: int, after: int) -> Tensor:
    """Add up what each block has in all stretches of `beside`: its gradient."""
    if not before and not after:
        return t
    parts, count = t.chunk(before + 1 + after, 3), t.shape[2]
    out = parts[before].clone()
    for i, part in enumerate(parts):
        away = i - before  # the stretch of block b holds block b + away here
        if away < 0:
            out[:, :, :away] += part[:, :, -away:]
        elif away > 0:
            out[:, :, away:] += part[:, :, : count - away]
    return out
