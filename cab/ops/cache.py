"""Keys and values kept while streaming, each row's real tokens first: a token's place is its position."""

import torch
from torch import Tensor

Cache = tuple[tuple[Tensor, ...], Tensor]  # tensors (batch, heads, kept, size); how many of a row are real (batch,)


def cached(*tensors: Tensor) -> Cache:
    """Begin with tensors of length 0."""
    return tensors, torch.zeros(tensors[0].shape[0], dtype=torch.long, device=tensors[0].device)


def appended(cache: Cache, new: tuple[Tensor, ...], real: Tensor | None) -> tuple[Cache, Tensor]:
    """Add c tokens, of which some may be masked; return the cache and the position of each token (batch, c).

    A masked token is not kept; its position is that of the real token before it, at least 0.
    """
    kept, count = cache
    size, c = kept[0].shape[2], new[0].shape[2]
    ones = torch.ones(new[0].shape[0], c, dtype=torch.bool, device=count.device) if real is None else real
    place = count.unsqueeze(1) + ones.cumsum(1) - 1
    where = place.where(ones, size + c)[:, None, :, None]  # a place after the last, which is dropped
    longer = tuple(
        torch.nn.functional.pad(old, (0, 0, 0, c + 1)).scatter(2, where.expand_as(t), t)[:, :, :-1]
        for old, t in zip(kept, new, strict=True)
    )
    return (longer, count + ones.sum(1)), place.clamp(min=0)
