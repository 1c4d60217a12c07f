"""Landmarks: the means of as many stretches of real tokens as are asked for."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.ragged import real_first


def segment_means(t: Tensor, mask: Tensor | None, segments: int) -> tuple[Tensor, Tensor | None]:
    """Return the means (batch, heads, segments, size) of stretches of t's real tokens, and which hold a token.

    The second is (batch, segments), or None where each does.

    Of L real tokens, the first stretches hold floor(L / segments) and the last L mod segments one more, so no token is
    in two and none is left out. With fewer tokens than segments the first are empty, and zero.
    """
    batch, heads, length, size = t.shape
    if mask is None:
        short, longer = length // segments, length % segments
        fewer = segments - longer
        if not short:
            filled = torch.arange(segments, device=t.device) >= fewer
            return F.pad(t, (0, 0, fewer, 0)), filled.expand(batch, -1)
        first = torch.unflatten(t[:, :, : fewer * short], 2, (fewer, short)).mean(3)
        if not longer:
            return first, None
        return torch.cat([first, torch.unflatten(t[:, :, fewer * short :], 2, (longer, short + 1)).mean(3)], 2), None
    place = segment_of(mask, segments)
    index = place[:, None, :, None].expand(-1, heads, -1, size)
    wide = torch.promote_types(t.dtype, torch.float32)  # 16-bit sums of many tokens would stop growing
    total = torch.zeros(batch, heads, segments + 1, size, dtype=wide, device=t.device)
    total = total.scatter_add(2, index, t.to(wide))[:, :, :-1]  # masked tokens are in the last, which goes
    count = torch.zeros(batch, segments + 1, dtype=wide, device=t.device)
    count = count.scatter_add(1, place, torch.ones_like(place, dtype=wide))[:, :-1]
    return (total / count.clamp(min=1)[:, None, :, None]).to(t.dtype), count > 0


def segment_of(mask: Tensor, segments: int) -> Tensor:
    """Return each token's stretch (batch, length); a masked token has the one after the last."""
    count, rank = mask.sum(1, keepdim=True), mask.cumsum(1) - 1
    short = count // segments
    fewer = segments - count % segments
    early = rank // short.clamp(min=1)
    late = fewer + (rank - fewer * short) // (short + 1)
    return torch.where(rank < fewer * short, early, late).where(mask, segments)


def segment_members(length: int, mask: Tensor | None, segments: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the places (batch or 1, segments, width) of each stretch's tokens, and which of them are in it.

    The stretches are those of `segment_means`; `width` is the longest that may be.
    """
    if mask is None:
        count = torch.full((1, 1), length, device=device)
    else:
        count = mask.sum(1, keepdim=True)
    number = torch.arange(segments, device=device)
    short, fewer = count // segments, segments - count % segments
    start = number * short + (number - fewer).clamp(min=0)
    offset = torch.arange(-(-length // segments), device=device)
    inside = offset < (short + (number >= fewer)).unsqueeze(2)
    places = (start.unsqueeze(2) + offset).clamp(max=length - 1)
    if mask is not None:
        places = real_first(mask)[0].gather(1, places.flatten(1)).view_as(places)
    return places, inside
