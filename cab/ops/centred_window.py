"""Softmax over a window of keys around a query's centre, and over the first keys of all, in blocks of queries.

In a slot for N queries and M keys, the centre of query i is key floor(i M / N). In self patterns that is the query's
own key. In cross patterns it depends on no other query, and not on the number of tokens at hand.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.contracts.slot import Slot
from cab.ops.prefix import chunked
from cab.ops.softmax import BlockAttention, explicit_attention


@dataclass(frozen=True)
class CentredWindow:
    """What a query sees: the keys from `before` before its centre to `after` after it, and the first `global_keys`.

    In a causal window it sees the global keys up to its centre.
    """

    before: int
    after: int
    global_keys: int
    causal: bool
    queries: int  # N
    keys: int  # M

    @classmethod
    def of(cls, slot: Slot, window: int, global_keys: int) -> "CentredWindow":
        """Return the window of a slot, with `window` keys on each side of the centre (causal self: before it only)."""
        causal = slot.pattern.causal and not slot.pattern.cross
        return cls(window, 0 if causal else window, global_keys, causal, slot.max_len, slot.keys)

    def centres(self, query: Tensor) -> Tensor:
        """Return the centres of the queries with these indices."""
        return query * self.keys // self.queries

    def sees(self, centre: Tensor, key: Tensor) -> Tensor:
        """Return the mask of the keys with these indices that a query with this centre sees."""
        offset = key - centre
        is_global = (key < self.global_keys) & (offset <= 0) if self.causal else key < self.global_keys
        return ((offset >= -self.before) & (offset <= self.after)) | is_global

    def width(self, block: int) -> int:
        """Return how many keys lie in the window of some query of a block."""
        return -(-(block - 1) * self.keys // self.queries) + 1 + self.before + self.after

    def pairs(self, n: int, m: int, block: int) -> int:
        """Count the pairs of query and key for which `centred_window_softmax` computes a score."""
        block = min(block, n)
        width = self.width(block) + self.global_keys
        return n * m if width >= m else -(-n // block) * block * width


def centred_window_softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: CentredWindow,
    block: int,
    key_mask: Tensor | None = None,
    attention: BlockAttention = explicit_attention,
) -> Tensor:
    """Return softmax attention of each query to the keys that `window` lets it see.

    q is (batch, heads, n, dim), k is (batch, heads, m, dim), v is (batch, heads, m, size), key_mask is (batch, m).
    O(n (window + global_keys + block) (dim + size)) time.
    """
    n, m = q.shape[2], k.shape[2]
    block = min(block, n)
    width = window.width(block)
    if width + window.global_keys >= m:  # blocks would compute more scores than there are pairs: one block of all
        block, key = n, torch.arange(m, device=q.device).unsqueeze(0)
        centre = window.centres(torch.arange(n, device=q.device)).unsqueeze(0)
        seen = window.sees(centre.unsqueeze(2), key.unsqueeze(1))
        block_k, block_v = k.unsqueeze(2), v.unsqueeze(2)
    else:
        centre = window.centres(torch.arange(-(-n // block) * block, device=q.device)).view(-1, block)
        global_key = torch.arange(window.global_keys, device=q.device)
        key = centre[:, :1] - window.before + torch.arange(width, device=q.device)
        exists = (key >= window.global_keys) & (key < m)  # a global key counts once, not in the window again
        exists = F.pad(exists, (0, window.global_keys), value=True).unsqueeze(1)
        key = torch.cat([key, global_key.expand(len(key), -1)], 1)  # (blocks, width + global_keys)
        seen = window.sees(centre.unsqueeze(2), key.unsqueeze(1)) & exists
        key = key.clamp(0, m - 1)
        block_k, block_v = (torch.unflatten(t.index_select(2, key.flatten()), 2, key.shape) for t in (k, v))
    if key_mask is not None:
        seen = seen & key_mask.index_select(1, key.flatten()).view(-1, 1, key.shape[0], 1, key.shape[1])
    else:
        seen = seen[None, None]
    return attention(chunked(q, block), block_k, block_v, seen).flatten(2, 3)[:, :, :n]
