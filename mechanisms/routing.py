"""Routing Transformer (Roy et al., arXiv 2003.05997), strictly causal: a query sees keys of its own cluster.

Directions of queries and keys are compared with centroids, which follow them as an exponential average in training
(online k-means); as many clusters as hold `window` of the slot's keys each on average. A query belongs to the nearest
centroid. It sees:

- NS, NC, CC: the `window` keys nearest to that centroid, as in the paper (algorithm 1).
- CS: the past keys whose nearest centroid it is, in stretches of half a `window` of them (rounded up): the stretch that
  its own time falls into, and the one before.

The paper also gives each centroid the `window` queries nearest to it: a query then gets no cluster, or several, by what
other queries are, in CS later ones. `routing_leaky` is that form. Queries and keys stay apart in CS too, where the
paper shares them. A query whose cluster holds no key yet gives zeros. Centroids begin at random.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.buckets import assign_blocks, gather_from_blocks, gather_tables, max_blocks, scatter_to_blocks
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.clusters import commitment_loss, cosine_similarity, random_centroids, update_centroids
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax

# the queries' places in blocks, (batch, heads, n); each block's keys and values; what each query of it sees, or None
Found = tuple[Tensor, Tensor, Tensor, Tensor | None]


class Routing(Mechanism):
    """Queries see the keys of their own cluster."""

    patterns = {"NS": "extension", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2003.05997"
    cost = "O(n w d + (n + m) (m / w) d)"
    checks = ({"window": 8, "block": 4}, {"window": 5, "block": 3}, {"window": 16, "block": 8})
    limits = ({"params": {"window": 64}, "equals": "softmax"},)

    centroids: Tensor

    def __init__(
        self, slot: Any, *, window: int = 128, block: int = 64, decay: float = 0.999, commitment: float = 0.0001
    ) -> None:
        super().__init__(slot)
        for name, value in (("window", window), ("block", block)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: from 0 to 1")
        if commitment < 0:
            raise ValueError(f"commitment={commitment}: 0 or more")
        self.window, self.block, self.decay, self.commitment = window, block, decay, commitment
        self.clusters, self.stretch = -(-slot.keys // window), -(-window // 2)
        self.register_buffer("centroids", random_centroids(slot.heads, self.clusters, slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Put queries of a cluster into blocks, which read the cluster's keys together."""
        return self._routed(explicit_attention, q, k, v, key_mask, query_mask)

    def attend_sdpa(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the blocks with PyTorch's fused kernels."""
        return self._routed(fused_attention, q, k, v, key_mask, query_mask)

    def _routed(
        self,
        attention: BlockAttention,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
    ) -> Tensor:
        mine = cosine_similarity(q, self.centroids).argmax(-1)
        near = cosine_similarity(k, self.centroids)
        find = self._in_past if self.slot.pattern is Pattern.CS else self._in_cluster
        where, keys, values, seen = find(k, v, mine, near, key_mask)
        queries = scatter_to_blocks(q, where, keys.shape[2], min(self.block, q.shape[2]))
        out = gather_from_blocks(attention(queries, keys, values, seen), where)
        if self.training:
            self._learn(q, mine, query_mask)
            self._learn(k, near.argmax(-1), key_mask)
            self.aux_loss = self.commitment * (
                commitment_loss(q, self.centroids, mine, query_mask)
                + commitment_loss(k, self.centroids, near.argmax(-1), key_mask)
            )
        return out

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Find for each query, one by one, the keys that it sees."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        wide = torch.promote_types(q.dtype, torch.float32)
        for b in range(q.shape[0]):
            real = torch.ones(k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask[b]
            for h in range(self.slot.heads):
                mean = self.centroids[h].to(wide)
                of_query, of_key = (
                    torch.einsum("id,cd->ic", t[b, h].to(wide) / t[b, h].to(wide).norm(dim=1, keepdim=True), mean)
                    for t in (q, k)
                )
                for i, c in enumerate(of_query.max(1).indices.tolist()):
                    if self.slot.pattern is Pattern.CS:
                        members = ((of_key.max(1).indices == c) & real)[: i + 1].nonzero()[:, 0]
                        stretch = (len(members) - 1) // self.stretch
                        keys = members[max(stretch - 1, 0) * self.stretch :]
                    else:
                        nearest = of_key[:, c].masked_fill(~real, -torch.inf).sort(descending=True).indices
                        keys = nearest[: min(self.window, int(real.sum()))]
                    if len(keys):
                        weights = (k[b, h, keys] @ q[b, h, i] / self.slot.dim**0.5).softmax(0)
                        out[b, h, i] = weights @ v[b, h, keys]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Similarities to the centroids, and scores and sums of the blocks."""
        dim, size, block = self.slot.dim, self.slot.values, min(self.block, n)
        tables, width = self.clusters, min(self.window, m)
        if self.slot.pattern is Pattern.CS:
            width = min(self.stretch, n)
            tables = max_blocks(n, self.clusters + 1, width)
            width = 2 * width
        pairs = max_blocks(n, tables, block) * block * width
        return 2.0 * self.slot.heads * ((n + m) * self.clusters * dim + pairs * (dim + size))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Keep each cluster's keys and values (CC), or every key with its cluster (CS)."""
        if self.slot.pattern.cross:
            return self._tables(k, v, cosine_similarity(k, self.centroids), key_mask)
        return empty_cache(k, v, k[..., :1].long())

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Read the own cluster: its keys (CC), or its last stretches among all that came (CS)."""
        rows = []
        for start in range(0, q.shape[2], self.block):
            part = slice(start, start + self.block)
            ours = q[:, :, part] * self.slot.dim**-0.5
            mine = cosine_similarity(q[:, :, part], self.centroids).argmax(-1)
            if k is None or v is None:
                keys, values, real = (_of(t, mine) for t in state)
                weights = masked_softmax((ours.unsqueeze(3) @ keys.transpose(-1, -2)).squeeze(3), real)
                rows.append((weights.unsqueeze(3) @ values).squeeze(3))
                continue
            own = cosine_similarity(k[:, :, part], self.centroids).argmax(-1, keepdim=True)
            new = None if key_mask is None else key_mask[:, part]
            state, place = extend_cache(state, (k[:, :, part], v[:, :, part], own), new)
            keys, values, clusters = state[0]
            past = torch.arange(keys.shape[2], device=q.device) <= place[:, None, :, None]
            same = past & (clusters.squeeze(3).unsqueeze(2) == mine.unsqueeze(3))
            rank = same.cumsum(3) - 1
            last = torch.div(rank[..., -1:], self.stretch, rounding_mode="floor")
            seen = same & (torch.div(rank, self.stretch, rounding_mode="floor") >= last - 1)
            rows.append(masked_softmax(ours @ keys.transpose(-1, -2), seen) @ values)
        return torch.cat(rows, 2), state

    def _learn(self, x: Tensor, cluster: Tensor, mask: Tensor | None) -> None:
        update_centroids(self.centroids, x, cluster, mask, self.decay)

    def _tables(self, k: Tensor, v: Tensor, near: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys nearest to each centroid, (batch, heads, clusters, window, ·), and which are real."""
        if key_mask is not None:
            near = near.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        best, index = near.transpose(2, 3).topk(min(self.window, k.shape[2]), dim=3)
        k, v = (gather_tables(t, index) for t in (k, v))
        return k, v, best > -torch.inf

    def _in_cluster(self, k: Tensor, v: Tensor, mine: Tensor, near: Tensor, key_mask: Tensor | None) -> Found:
        """Find for blocks of queries the keys nearest to their centroid."""
        where, of = assign_blocks(mine, self.clusters, min(self.block, mine.shape[2]))
        *kept, real = self._tables(k, v, near, key_mask)
        k, v = (_of(t, of) for t in kept)
        return where, k, v, None if key_mask is None else _of(real, of).unsqueeze(3)

    def _in_past(self, k: Tensor, v: Tensor, mine: Tensor, near: Tensor, key_mask: Tensor | None) -> Found:
        """Find for blocks of queries the stretch of keys that their time falls into, and the one before."""
        n = mine.shape[2]
        stretch, size = min(self.stretch, n), min(self.block, n)
        own = near.argmax(-1)
        if key_mask is not None:
            own = own.masked_fill(~key_mask[:, None, :], self.clusters)  # masked keys are a cluster of their own
        tables = max_blocks(n, self.clusters + 1, stretch)
        # sorted by cluster and time, the keys before a query in its cluster end where the query would stand
        time = torch.arange(n, device=k.device)
        code, order = (own * n + time).sort(2)
        count = torch.searchsorted(code, mine * n + time, right=True) - torch.searchsorted(code, mine * n)
        members = own.new_zeros(*own.shape[:2], self.clusters + 1).scatter_add(2, own, torch.ones_like(own))
        used = -(-members // stretch)  # a cluster's stretches stand in tables of their own, one after another
        first = used.cumsum(2) - used
        rank = torch.zeros_like(order).scatter(2, order, time.expand_as(order))
        where = rank + (first * stretch - members.cumsum(2) + members).gather(2, own)
        table = first.gather(2, mine) + (count - 1).clamp(min=0) // stretch
        block, of_block = assign_blocks(table.clamp(max=tables - 1), tables, size)
        blocks = of_block.shape[2]
        k, v = (_of(scatter_to_blocks(t, where, tables, stretch), of_block, before=True) for t in (k, v))
        # time and cluster of each key of the tables, and of each query; 0 is no key
        facts = torch.stack([time.expand_as(own) + 1, own], 3)
        ours = scatter_to_blocks(torch.stack([time.expand_as(mine) + 1, mine], 3), block, blocks, size)
        theirs = _of(scatter_to_blocks(facts, where, tables, stretch), of_block, before=True).unsqueeze(3)
        seen = (theirs[..., 0] > 0) & (theirs[..., 0] <= ours[..., :1]) & (theirs[..., 1] == ours[..., 1:])
        # the first table has none before it: what stands there is itself again
        again = (of_block == 0)[..., None, None] & (torch.arange(2 * stretch, device=k.device) < stretch)
        return block, k, v, seen & ~again


def _of(tables: Tensor, index: Tensor, before: bool = False) -> Tensor:
    """Take the tables (batch, heads, tables, ...) at index (batch, heads, count), with the one before each in front."""
    if not before:
        return gather_tables(tables, index)
    return gather_tables(tables, torch.stack([(index - 1).clamp(min=0), index], 3)).flatten(3, 4)
