"""The largest scores of each row: a stable selection that never takes what is hidden."""

from math import ceil

import torch
from torch import Tensor

ROUNDING = 1e-6  # 0.28 * 25 exceeds 7 by rounding


def top_k(scores: Tensor, count: int, seen: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """Return the positions of the `count` largest scores of each row, largest first, and which of them count.

    scores (..., m) are finite. `seen` is boolean, broadcasts to them, and is True where a score may be selected; None
    stands for all True. Both results are (..., min(count, m)); the second is None if all count. Where a row sees fewer
    than `count` scores, the positions at its end are those of hidden scores and do not count: mask them.

    Of two equal scores the earlier one comes first, so what is hidden after them changes nothing (`torch.topk` promises
    no order). Compute the scores in float32 at least and outside of autocast: in 16 bits many of them are equal, and
    rounding would select others. The selection has no gradient. O(m log m) time for each row.
    """
    scores = scores.detach()
    if seen is None:
        return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count], None
    hidden = scores.masked_fill(~seen, -torch.inf)
    positions = hidden.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return positions, seen.expand_as(scores).gather(-1, positions)


def top_k_mask(scores: Tensor, count: int, seen: Tensor | None = None) -> Tensor:
    """Return the mask of what `top_k` selects, of the shape of `scores`."""
    positions, counts = top_k(scores, count, seen)
    counts = torch.ones_like(positions, dtype=torch.bool) if counts is None else counts
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, positions, counts)


def top_share(scores: Tensor, share: float, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Return `top_k` of the ceil(share m_i) largest scores of each row, of m_i that it sees.

    0 < share <= 1. Both results are (..., ceil(share m)).
    """
    positions, counts = top_k(scores, share_of(scores.shape[-1], share), seen)
    assert counts is not None  # there is a mask
    number = (share * seen.sum(-1, keepdim=True, dtype=torch.float64) - ROUNDING).ceil()
    return positions, counts & (torch.arange(positions.shape[-1], device=scores.device) < number)


def share_of(count: int, share: float) -> int:
    """Return ceil(share count)."""
    return ceil(share * count - ROUNDING)
