"""Blocks of tokens, each concatenated with the whole blocks before and after it; and the adjoint of that."""

import torch
import torch.nn.functional as F
from torch import Tensor


def with_neighbours(t: Tensor, before: int, after: int, fill: int = 0) -> Tensor:
    """Concatenate each block of t with the `before` blocks before it and the `after` blocks after it.

    t is (batch, heads, blocks, block, size), the result is (batch, heads, blocks, (before + 1 + after) * block, size).
    Beyond the ends stands `fill`.
    """
    if not before and not after:
        return t
    count = t.shape[2]
    t = F.pad(t, (0, 0, 0, 0, before, after), value=fill)
    return torch.cat([t[:, :, i : i + count] for i in range(before + 1 + after)], 3)


def sum_neighbours(t: Tensor, before: int, after: int) -> Tensor:
    """Return the adjoint of `with_neighbours`: for each block, the sum of its copies. It maps gradients back.

    t is (batch, heads, blocks, (before + 1 + after) * block, size), the result is (batch, heads, blocks, block, size).
    """
    if not before and not after:
        return t
    copies, count = t.chunk(before + 1 + after, 3), t.shape[2]
    out = copies[before].clone()
    for i, copy in enumerate(copies):
        shift = i - before  # here block b holds the copy of block b + shift
        if shift < 0:
            out[:, :, :shift] += copy[:, :, -shift:]
        elif shift > 0:
            out[:, :, shift:] += copy[:, :, : count - shift]
    return out
