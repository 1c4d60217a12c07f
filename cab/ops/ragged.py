"""Batches whose rows have different numbers of unmasked ("real") tokens: reordering and pooling of the real ones."""

import torch
from torch import Tensor


def real_first(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return two permutations for each row of a mask (batch, length): real tokens to the front, and its inverse.

    Both are indices (batch, length) for `gather_tokens`, and keep the order among real tokens.
    """
    order = mask.int().argsort(dim=1, descending=True, stable=True)
    return order, order.argsort(1)


def gather_tokens(t: Tensor, index: Tensor) -> Tensor:
    """Take from t (batch, heads, length, size) the tokens at index (batch, count), the same for each head."""
    return t.gather(2, index[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3]))


def zero_masked(t: Tensor, mask: Tensor | None) -> Tensor:
    """Set the masked tokens of t (batch, heads, length, size) to zero. mask is (batch, length); None masks nothing."""
    return t if mask is None else t.masked_fill(~mask[:, None, :, None], 0.0)


def adaptive_average_pool(t: Tensor, mask: Tensor | None, bins: int) -> Tensor:
    """Average the real tokens of t (batch, heads, length, size) in `bins` segments: (batch, heads, bins, size).

    Of L real tokens, bin b holds those from floor(b L / bins) to ceil((b + 1) L / bins), as in
    `torch.nn.AdaptiveAvgPool1d`. With fewer tokens than bins, some tokens are in several bins. A row of the batch
    without real tokens gives zeros.
    """
    batch, length = t.shape[0], t.shape[2]
    bin_index = torch.arange(bins, device=t.device)
    count = torch.full((batch, 1), length, device=t.device) if mask is None else mask.sum(1, keepdim=True)
    start = bin_index * count // bins
    bin_size = -(-(bin_index + 1) * count // bins) - start
    offset = torch.arange(-(-length // bins) + 1, device=t.device)  # the largest bin has one token more than the mean
    index = (start.unsqueeze(2) + offset).clamp(max=length - 1).flatten(1)
    if mask is not None:
        index = real_first(mask)[0].gather(1, index)
    candidates = torch.unflatten(gather_tokens(t, index), 2, (bins, -1))
    outside = offset >= bin_size.unsqueeze(2)
    total = candidates.masked_fill(outside[:, None, :, :, None], 0.0).sum(3)
    return total / bin_size.clamp(min=1)[:, None, :, None].to(t.dtype)
