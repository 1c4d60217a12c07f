"""Segments of the real tokens of a sequence, almost equally long, and their means: the landmarks of Nyströmformer.

L real tokens are cut into S consecutive segments (the segment means of arXiv 2102.03902, for any L). The first
S - L mod S segments have floor(L / S) tokens, the others one more. With fewer tokens than segments the first ones are
empty.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import at_least_float32
from cab.ops.ragged import real_first


def segment_means(t: Tensor, mask: Tensor | None, segments: int) -> tuple[Tensor, Tensor | None]:
    """Return the means of the segments of t's real tokens, and which segments have a token.

    t is (batch, heads, length, size), mask is (batch, length). The means are (batch, heads, segments, size), where an
    empty segment has zeros. The second result is (batch, segments), or None if no segment is empty.
    """
    batch, heads, length, size = t.shape
    if mask is None:
        short_length, long_count = length // segments, length % segments
        short_count = segments - long_count
        if not short_length:
            not_empty = torch.arange(segments, device=t.device) >= short_count
            return F.pad(t, (0, 0, short_count, 0)), not_empty.expand(batch, -1)
        border = short_count * short_length
        short_means = torch.unflatten(t[:, :, :border], 2, (short_count, short_length)).mean(3)
        if not long_count:
            return short_means, None
        long_means = torch.unflatten(t[:, :, border:], 2, (long_count, short_length + 1)).mean(3)
        return torch.cat([short_means, long_means], 2), None
    segment = segment_of(mask, segments)
    index = segment[:, None, :, None].expand(-1, heads, -1, size)
    wide = at_least_float32(t)
    total = torch.zeros(batch, heads, segments + 1, size, dtype=wide, device=t.device)
    total = total.scatter_add(2, index, t.to(wide))[:, :, :-1]  # without the last, which holds the masked tokens
    count = torch.zeros(batch, segments + 1, dtype=wide, device=t.device)
    count = count.scatter_add(1, segment, torch.ones_like(segment, dtype=wide))[:, :-1]
    return (total / count.clamp(min=1)[:, None, :, None]).to(t.dtype), count > 0


def segment_of(mask: Tensor, segments: int) -> Tensor:
    """Return the number of each token's segment (batch, length); a masked token has `segments`, one too many."""
    count, rank = mask.sum(1, keepdim=True), mask.cumsum(1) - 1
    short_length = count // segments
    short_count = segments - count % segments
    if_short = rank // short_length.clamp(min=1)
    if_long = short_count + (rank - short_count * short_length) // (short_length + 1)
    return torch.where(rank < short_count * short_length, if_short, if_long).where(mask, segments)


def segment_members(length: int, mask: Tensor | None, segments: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions of the tokens of each segment, and which of these entries are in it.

    Both are (batch or 1, segments, width), where `width` is the length of the longest segment of `length` real tokens.
    """
    if mask is None:
        count = torch.full((1, 1), length, device=device)
    else:
        count = mask.sum(1, keepdim=True)
    segment = torch.arange(segments, device=device)
    short_length, short_count = count // segments, segments - count % segments
    start = segment * short_length + (segment - short_count).clamp(min=0)
    offset = torch.arange(-(-length // segments), device=device)
    inside = offset < (short_length + (segment >= short_count)).unsqueeze(2)
    positions = (start.unsqueeze(2) + offset).clamp(max=length - 1)
    if mask is not None:
        positions = real_first(mask)[0].gather(1, positions.flatten(1)).view_as(positions)
    return positions, inside
