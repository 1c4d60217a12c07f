"""Rotary positions (Su et al., arXiv 2104.09864, equation 34) for tokens at explicit positions, over some channels."""

import torch
from torch import Tensor

from cab.ops.precision import at_least_float32


def rotate(t: Tensor, position: Tensor, base: float | None, channels: int | None = None) -> Tensor:
    """Rotate the pairs (i, i + channels // 2) of the first `channels` channels of t (batch, heads, length, size).

    Pair i of a token turns by position * base ** (-2 i / channels). `position` is (length,) or (batch, length).
    `channels` is even; None takes all that make pairs. The other channels stay, and all do where `base` is None.
    """
    if base is None:
        return t
    half = (t.shape[-1] if channels is None else channels) // 2
    dtype = at_least_float32(t)
    frequency = base ** (-torch.arange(half, device=t.device, dtype=dtype) / half)
    angle = (position.unsqueeze(-1) * frequency).unsqueeze(-3)
    cos, sin = angle.cos().to(t.dtype), angle.sin().to(t.dtype)
    first, second, rest = t[..., :half], t[..., half : 2 * half], t[..., 2 * half :]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)
