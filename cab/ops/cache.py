"""The cache of a streaming mechanism: keys, values and the like of the unmasked tokens so far.

In each row of the batch the tokens lie at the front, in order, so that the index of a token is its position.
"""

import torch
from torch import Tensor

Cache = tuple[tuple[Tensor, ...], Tensor]  # tensors (batch, heads, length, size); number of tokens in each row (batch,)


def empty_cache(*tensors: Tensor) -> Cache:
    """Return the cache before the first token, for tensors (batch, heads, 0, size)."""
    return tensors, torch.zeros(tensors[0].shape[0], dtype=torch.long, device=tensors[0].device)


def cache_of(tensors: tuple[Tensor, ...], mask: Tensor | None) -> Cache:
    """Return the cache of a whole sequence: tensors (batch, heads, length, size), mask (batch, length)."""
    return extend_cache(empty_cache(*(t[:, :, :0] for t in tensors)), tensors, mask)[0]


def next_positions(cache: Cache, c: int, mask: Tensor | None) -> Tensor:
    """Return the position of each of the next c tokens, (batch, c). mask is (batch, c).

    That of a masked token is the position of the unmasked token before it, at least 0.
    """
    count = cache[1].unsqueeze(1)
    new = torch.arange(1, c + 1, device=count.device) if mask is None else mask.cumsum(1)
    return (count + new - 1).clamp(min=0)


def extend_cache(cache: Cache, new: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Cache, Tensor]:
    """Append c tokens to the cache; return it and the position of each token, (batch, c): see `next_positions`.

    `new` are tensors (batch, heads, c, size), mask is (batch, c). A masked token is not stored.
    """
    stored, count = cache
    length, c = stored[0].shape[2], new[0].shape[2]
    real = torch.ones(new[0].shape[0], c, dtype=torch.bool, device=count.device) if mask is None else mask
    position = next_positions(cache, c, real)
    target = position.where(real, length + c)[:, None, :, None]  # masked tokens go behind the last entry, which is cut
    extended = tuple(
        torch.nn.functional.pad(old, (0, 0, 0, c + 1)).scatter(2, target.expand_as(t), t)[:, :, :-1]
        for old, t in zip(stored, new, strict=True)
    )
    return (extended, count + real.sum(1)), position


def visible_in_cache(cache: Cache, position: Tensor | None = None) -> Tensor:
    """Return the mask of the cached tokens that each new token may attend to, (batch, 1, c or 1, length).

    `position` (batch, c) is that of the new tokens in a causal self pattern: they see what is cached up to it. None, in
    a cross pattern: every token that is cached.
    """
    stored, count = cache
    index = torch.arange(stored[0].shape[2], device=count.device)
    last = count.unsqueeze(1) - 1 if position is None else position
    return (index <= last.unsqueeze(-1)).unsqueeze(1)
