"""The channels of all heads beside each other, for what mixes them as one token."""

import torch
from torch import Tensor


def channels_of(t: Tensor) -> Tensor:
    """Return (batch, heads, n, size) as (batch, n, heads size)."""
    return t.transpose(1, 2).flatten(2)


def heads_of(t: Tensor, heads: int) -> Tensor:
    """Invert `channels_of`: (batch, n, heads size) gives (batch, heads, n, size)."""
    return torch.unflatten(t, 2, (heads, -1)).transpose(1, 2)
