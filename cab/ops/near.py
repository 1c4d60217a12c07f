"""Softmax over the keys near a query's place, and over the first keys of all, in blocks of queries.

Query i of a slot with N queries and M keys has its place at key floor(i M / N): itself in self patterns, and a place
that no other query and no length at hand moves in cross patterns.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.contracts.slot import Slot
from cab.ops.softmax import masked_softmax


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


def near_softmax(q: Tensor, k: Tensor, v: Tensor, near: Near, block: int, key_mask: Tensor | None = None) -> Tensor:
    """Return softmax attention over what `near` lets each query see; q is scaled. O(n (window + first + block) d)."""
    n, m = q.shape[2], k.shape[2]
    block = min(block, n)
    width = near.width(block)
    if width + near.first >= m:  # blocks would compute more than everything
        seen = near.seen(near.places(torch.arange(n, device=q.device)).unsqueeze(1), torch.arange(m, device=q.device))
        seen = seen if key_mask is None else seen & key_mask[:, None, None, :]
        return masked_softmax(q @ k.transpose(-1, -2), seen) @ v
    blocks = -(-n // block)
    q = torch.unflatten(F.pad(q, (0, 0, 0, blocks * block - n)), 2, (blocks, block))
    place = near.places(torch.arange(blocks * block, device=q.device)).view(blocks, block)
    key = place[:, :1] - near.before + torch.arange(width, device=q.device)  # (blocks, width)
    index = key.clamp(0, m - 1).flatten()
    # of these the first keys are left out, for every query sees them beside
    seen = near.seen(place.unsqueeze(2), key.unsqueeze(1)) & ((key >= near.first) & (key < m)).unsqueeze(1)
    first = torch.arange(near.first, device=q.device)
    seen = torch.cat([seen, near.seen(place.unsqueeze(2), first)], 2)
    if key_mask is not None:
        real = key_mask.index_select(1, index).view(-1, 1, blocks, 1, width)
        far = key_mask[:, None, None, None, : near.first].expand(-1, 1, blocks, 1, -1)
        seen = seen & torch.cat([real, far], 4)
    shape = (*k.shape[:2], blocks, width, -1)
    near_k, near_v = (t.index_select(2, index).view(shape) for t in (k, v))
    far_k, far_v = (t[:, :, None, : near.first] for t in (k, v))
    scores = torch.cat([q @ near_k.transpose(-1, -2), q @ far_k.transpose(-1, -2)], 4)
    weights = masked_softmax(scores, seen)
    out = weights[..., :width] @ near_v + weights[..., width:] @ far_v
    return out.flatten(2, 3)[:, :, :n]
