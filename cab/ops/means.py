"""Means of the unmasked values: of all of them, and of those up to each token."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cab.ops.autograd import fresh_view
from cab.ops.precision import at_least_float32
from cab.ops.prefix import prefix_sums, suffix_sums


def masked_mean(v: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the unmasked tokens of v.

    v is (batch, heads, n, size), mask is (batch, n), the result is (batch, heads, 1, size). A row of the batch with no
    unmasked token gives zeros.
    """
    if mask is None:
        return v.mean(2, keepdim=True)
    total = v.masked_fill(~mask[:, None, :, None], 0.0).sum(2, keepdim=True, dtype=at_least_float32(v))
    return (total / mask.sum(1).clamp(min=1)[:, None, None, None]).to(v.dtype)


def running_mean(v: Tensor, mask: Tensor | None) -> Tensor:
    """Return at each token the mean over the unmasked tokens of v up to it.

    v and the result are (batch, heads, n, size), mask is (batch, n). A token that has no unmasked one up to it gives
    zeros.
    """
    if mask is None:
        token_mask, count = None, torch.arange(1, v.shape[2] + 1, device=v.device)[:, None]
    else:
        token_mask = mask[:, None, :, None]
        count = token_mask.cumsum(2).clamp(min=1)
    if not torch.is_grad_enabled():
        return _running_mean(v, token_mask, count)
    out: Tensor = _RunningMean.apply(v, token_mask, count)  # type: ignore[no-untyped-call]
    return out


def _running_mean(v: Tensor, token_mask: Tensor | None, count: Tensor) -> Tensor:
    v = v if token_mask is None else torch.where(token_mask, v, 0.0)
    return prefix_sums(v.to(at_least_float32(v))).div_(count).to(v.dtype)


class _RunningMean(torch.autograd.Function):
    """The gradient of a prefix sum is a suffix sum, so no tensor of v's size is saved for backward."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, token_mask: Tensor | None, count: Tensor) -> Tensor:
        ctx.save_for_backward(token_mask, count)
        return fresh_view(_running_mean(v, token_mask, count))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        token_mask, count = ctx.saved_tensors
        grad_v = suffix_sums(grad_out.to(at_least_float32(grad_out)) / count)
        if token_mask is not None:
            grad_v.mul_(token_mask)
        return grad_v.to(grad_out.dtype), None, None
