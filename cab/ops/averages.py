"""Means of the real values: of all, and of those up to each token."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.prefix import prefix_sums, suffix_sums
from cab.ops.results import handed_out


def mean_of(v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (batch, heads, 1, size) of v's real tokens; zeros where there is none."""
    if mask is None:
        return v.mean(2, keepdim=True)
    total = v.masked_fill(~mask[:, None, :, None], 0.0).sum(2, keepdim=True, dtype=sum_type(v))
    return (total / mask.sum(1).clamp(min=1)[:, None, None, None]).to(v.dtype)


def running_mean(v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean (batch, heads, n, size) of v's real tokens up to each one; zeros where there is none."""
    if mask is None:
        seen, count = None, torch.arange(1, v.shape[2] + 1, device=v.device)[:, None]
    else:
        seen = mask[:, None, :, None]
        count = seen.cumsum(2).clamp(min=1)
    if not torch.is_grad_enabled():
        return _running_mean(v, seen, count)
    out: Tensor = _RunningMean.apply(v, seen, count)  # type: ignore[no-untyped-call]
    return out


def _running_mean(v: Tensor, seen: Tensor | None, count: Tensor) -> Tensor:
    v = v if seen is None else torch.where(seen, v, 0.0)
    return prefix_sums(v.to(sum_type(v))).div_(count).to(v.dtype)


class _RunningMean(torch.autograd.Function):
    """Keeps no tensor of v's size, and takes the gradient's sums from the end in the same way."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, seen: Tensor | None, count: Tensor) -> Tensor:
        ctx.save_for_backward(seen, count)
        return handed_out(_running_mean(v, seen, count))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor, None, None]:
        seen, count = ctx.saved_tensors
        of_v = suffix_sums(of_out.to(sum_type(of_out)) / count)
        return (of_v if seen is None else of_v.mul_(seen)).to(of_out.dtype), None, None


def sum_type(t: Tensor) -> torch.dtype:
    """Return float32 for 16-bit tensors, whose sums of many tokens would stop growing."""
    return torch.promote_types(t.dtype, torch.float32)
