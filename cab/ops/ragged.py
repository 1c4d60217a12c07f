"""Rows of a batch with different numbers of real tokens: put them first, pool them, put them back."""

import torch
from torch import Tensor


def real_first(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return, per row of a mask (batch, length), the order that puts real tokens first and the order that undoes it."""
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    return order, order.argsort(1)


def taken(t: Tensor, index: Tensor) -> Tensor:
    """Take from t (batch, heads, length, size) the tokens at index (batch, count), the same for every head."""
    return t.gather(2, index[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3]))


def pooled(t: Tensor, mask: Tensor | None, bins: int) -> Tensor:
    """Average the real tokens of t (batch, heads, length, size) into `bins` stretches of them: adaptive pooling.

    Of L real tokens, bin b holds floor(b L / bins) up to ceil((b + 1) L / bins), so with fewer tokens than bins some
    repeat. A row without real tokens gives zeros.
    """
    batch, length = t.shape[0], t.shape[2]
    bin_index = torch.arange(bins, device=t.device)
    count = torch.full((batch, 1), length, device=t.device) if mask is None else mask.sum(1, keepdim=True)
    start = bin_index * count // bins
    size = -(-(bin_index + 1) * count // bins) - start
    offset = torch.arange(-(-length // bins) + 1, device=t.device)  # the widest bin has one token more than the mean
    index = (start.unsqueeze(2) + offset).clamp(max=length - 1).flatten(1)
    if mask is not None:
        index = real_first(mask)[0].gather(1, index)
    members = torch.unflatten(taken(t, index), 2, (bins, -1))
    outside = offset >= size.unsqueeze(2)
    total = members.masked_fill(outside[:, None, :, :, None], 0.0).sum(3)
    return total / size.clamp(min=1)[:, None, :, None].to(t.dtype)
