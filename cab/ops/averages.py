"""Means of the real values: of all, and of those up to each token."""

import torch
from torch import Tensor


def mean_of(v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (batch, heads, 1, size) of v's real tokens; zeros where there is none."""
    if mask is None:
        return v.mean(2, keepdim=True)
    total = v.masked_fill(~mask[:, None, :, None], 0.0).sum(2, keepdim=True, dtype=sum_type(v))
    return (total / mask.sum(1).clamp(min=1)[:, None, None, None]).to(v.dtype)


def running_mean(v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (batch, heads, n, size) of v's real tokens up to each one; zeros where there is none."""
    if mask is None:
        count = torch.arange(1, v.shape[2] + 1, device=v.device)[None]
    else:
        v, count = v.masked_fill(~mask[:, None, :, None], 0.0), mask.cumsum(1)
    return (v.cumsum(2, dtype=sum_type(v)) / count.clamp(min=1)[:, None, :, None]).to(v.dtype)


def sum_type(t: Tensor) -> torch.dtype:
    """Return float32 for 16-bit tensors, whose sums of many tokens would stop growing."""
    return torch.promote_types(t.dtype, torch.float32)
