"""Softmax over the keys near a query's place, and over the first keys of all, in blocks of queries.

Query i of a slot with N queries and M keys has its place at key floor(i M / N): itself in self patterns, and a place
that no other query and no length at hand moves in cross patterns.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.contracts.slot import Slot
from cab.ops.prefix import chunked
from cab.ops.softmax import Attention, written_out


@dataclass(frozen=True)
class Near:
    """What a query sees: `before` and `after` keys beside its place, and the `first` keys (causal: up to its place)."""

    before: int
    after: int
    first: int
    causal: bool
    queries: int  # N
    keys: int  # M

    @classmethod
    def of(cls, slot: Slot, window: int, first: int) -> "Near":
        """Return a window of as many keys on each side, in causal self on one, and `first` keys."""
        causal = slot.pattern.causal and not slot.pattern.cross
        return cls(window, 0 if causal else window, first, causal, slot.max_len, slot.keys)

    def places(self, index: Tensor) -> Tensor:
        """Return the places of the queries with these indices."""
        return index * self.keys // self.queries

    def seen(self, place: Tensor, key: Tensor) -> Tensor:
        """Whether a query at `place` sees the key."""
        ahead = key - place
        far = (key < self.first) & (ahead <= 0) if self.causal else key < self.first
        return ((ahead >= -self.before) & (ahead <= self.after)) | far

    def width(self, block: int) -> int:
        """Return how many keys lie near some query of a block."""
        return -(-(block - 1) * self.keys // self.queries) + 1 + self.before + self.after

    def pairs(self, n: int, m: int, block: int) -> int:
        """Count the pairs of query and key for which `near_softmax` computes a score."""
        block = min(block, n)
        width = self.width(block) + self.first
        return n * m if width >= m else -(-n // block) * block * width


def near_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    near: Near,
    block: int,
    key_mask: Tensor | None = None,
    attention: Attention = written_out,
) -> Tensor:
    """Return softmax attention over what `near` lets each query see. O(n (window + first + block) d)."""
    n, m = q.shape[2], k.shape[2]
    block = min(block, n)
    width = near.width(block)
    if width + near.first >= m:  # blocks would compute more than everything
        block, key = n, torch.arange(m, device=q.device).unsqueeze(0)
        place = near.places(torch.arange(n, device=q.device)).unsqueeze(0)
        seen = near.seen(place.unsqueeze(2), key.unsqueeze(1))
        near_k, near_v = k.unsqueeze(2), v.unsqueeze(2)
    else:
        place = near.places(torch.arange(-(-n // block) * block, device=q.device)).view(-1, block)
        first = torch.arange(near.first, device=q.device)
        key = place[:, :1] - near.before + torch.arange(width, device=q.device)
        once = (key >= near.first) & (key < m)  # the first keys are left out of windows, for every query sees them
        key = torch.cat([key, first.expand(len(key), -1)], 1)  # (blocks, width + first)
        seen = near.seen(place.unsqueeze(2), key.unsqueeze(1)) & F.pad(once, (0, near.first), value=True).unsqueeze(1)
        key = key.clamp(0, m - 1)
        near_k, near_v = (torch.unflatten(t.index_select(2, key.flatten()), 2, key.shape) for t in (k, v))
    if key_mask is not None:
        seen = seen & key_mask.index_select(1, key.flatten()).view(-1, 1, key.shape[0], 1, key.shape[1])
    else:
        seen = seen[None, None]
    return attention(chunked(q, block), near_k, near_v, seen).flatten(2, 3)[:, :, :n]
