"""Routing Transformer (Roy et al., arXiv 2003.05997), strictly causal: a query sees keys of its own cluster.

Directions of queries and keys are compared with centroids, which follow them as an exponential average in training
(online k-means). There are keys / `window` clusters, rounded up. A query belongs to the cluster of its nearest
centroid. It sees:

- NS, NC, CC: the `window` keys nearest to that centroid, as in the paper (algorithm 1).
- CS: past keys of the same cluster, those whose nearest centroid it is too. The keys of a cluster, in order, are cut
  into segments of half a `window` (rounded up). The query sees the segment of the last past key, and the one before.

In the paper a centroid also selects the `window` queries nearest to it. Whether a query is in no cluster, in one or in
several then depends on the other queries, in CS on later ones. `routing_leaky` is that form. In CS, too, queries and
keys are separate, where the paper shares them. A query whose cluster has no key yet gives zeros. Centroids are
initialised at random.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.buckets import assign_blocks, gather_from_blocks, gather_tables, max_blocks, scatter_to_blocks
from cab.ops.cache import empty_cache, extend_cache
from cab.ops.clusters import commitment_loss, cosine_similarity, random_centroids, update_centroids
from cab.ops.softmax import BlockAttention, explicit_attention, fused_attention, masked_softmax

# the positions of queries in blocks (batch, heads, n); keys, values and the mask `seen` (or None) of each block
Blocks = tuple[Tensor, Tensor, Tensor, Tensor | None]


class Routing(Mechanism):
    """Queries see the keys of their own cluster."""

    patterns = {"NS": "extension", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2003.05997"
    titles = ("Efficient Content-Based Sparse Attention with Routing Transformers",)
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
        self.clusters, self.segment = -(-slot.keys // window), -(-window // 2)
        self.register_buffer("centroids", random_centroids(slot.heads, self.clusters, slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Sort queries into blocks of one cluster each, which attend to the keys of the cluster together."""
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
        q_cluster = cosine_similarity(q, self.centroids).argmax(-1)
        k_cosines = cosine_similarity(k, self.centroids)
        blocks_of = self._past_blocks if self.slot.pattern is Pattern.CS else self._cluster_blocks
        position, keys, values, seen = blocks_of(k, v, q_cluster, k_cosines, key_mask)
        queries = scatter_to_blocks(q, position, keys.shape[2], min(self.block, q.shape[2]))
        out = gather_from_blocks(attention(queries, keys, values, seen), position)
        if self.training:
            k_cluster = k_cosines.argmax(-1)
            update_centroids(self.centroids, q, q_cluster, query_mask, self.decay)
            update_centroids(self.centroids, k, k_cluster, key_mask, self.decay)
            self.aux_loss = self.commitment * (
                commitment_loss(q, self.centroids, q_cluster, query_mask)
                + commitment_loss(k, self.centroids, k_cluster, key_mask)
            )
        return out

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Find the keys that each query sees, query by query, and compute softmax attention over them."""
        q_cosines, k_cosines = (
            t / t.norm(dim=-1, keepdim=True) @ self.centroids.double().mT for t in (q.double(), k.double())
        )
        seen = torch.zeros(1, self.slot.heads, q.shape[2], k.shape[2], device=q.device, dtype=q.dtype)
        for h, cosines in enumerate(q_cosines[0]):
            for i, cluster in enumerate(cosines.argmax(-1)):
                if self.slot.pattern is Pattern.CS:
                    members = (k_cosines[0, h, : i + 1].argmax(-1) == cluster).nonzero()[:, 0]
                    segments = members.split(self.segment)
                    seen[0, h, i, torch.cat(segments[-2:])] = 1
                else:
                    seen[0, h, i, k_cosines[0, h, :, cluster].argsort(descending=True)[: self.window]] = 1
        weights = (q @ k.mT / self.slot.dim**0.5).exp() * seen
        total = weights.sum(-1, keepdim=True)
        return weights / total.where(total > 0, 1.0) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the cosines with the centroids, and two products in each block."""
        dim, size, block = self.slot.dim, self.slot.values, min(self.block, n)
        buckets, keys = self.clusters, min(self.window, m)
        if self.slot.pattern is Pattern.CS:
            segment = min(self.segment, n)
            buckets, keys = max_blocks(n, self.clusters + 1, segment), 2 * segment
        pairs = max_blocks(n, buckets, block) * block * keys
        return 2.0 * self.slot.heads * ((n + m) * self.clusters * dim + pairs * (dim + size))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Any:
        """Return the keys and values of each cluster (CC), or an empty cache of keys, values and clusters (CS)."""
        if self.slot.pattern.cross:
            return self._cluster_tables(k, v, cosine_similarity(k, self.centroids), key_mask)
        return empty_cache(k, v, k[..., :1].long())

    def step(
        self, state: Any, q: Tensor, k: Tensor | None = None, v: Tensor | None = None, key_mask: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """Attend to the keys of the cluster (CC), or to its last two segments in the cache (CS), a block at a time."""
        rows = []
        for start in range(0, q.shape[2], self.block):
            block = slice(start, start + self.block)
            queries = q[:, :, block] * self.slot.dim**-0.5
            q_cluster = cosine_similarity(q[:, :, block], self.centroids).argmax(-1)
            if k is None or v is None:
                keys, values, real = (gather_tables(t, q_cluster) for t in state)
                weights = masked_softmax((queries.unsqueeze(3) @ keys.transpose(-1, -2)).squeeze(3), real)
                rows.append((weights.unsqueeze(3) @ values).squeeze(3))
                continue
            k_cluster = cosine_similarity(k[:, :, block], self.centroids).argmax(-1, keepdim=True)
            mask = None if key_mask is None else key_mask[:, block]
            state, position = extend_cache(state, (k[:, :, block], v[:, :, block], k_cluster), mask)
            keys, values, clusters = state[0]
            past = torch.arange(keys.shape[2], device=q.device) <= position[:, None, :, None]
            same_cluster = past & (clusters.squeeze(3).unsqueeze(2) == q_cluster.unsqueeze(3))
            segment = torch.div(same_cluster.cumsum(3) - 1, self.segment, rounding_mode="floor")
            seen = same_cluster & (segment >= segment[..., -1:] - 1)
            rows.append(masked_softmax(queries @ keys.transpose(-1, -2), seen) @ values)
        return torch.cat(rows, 2), state

    def _cluster_tables(
        self, k: Tensor, v: Tensor, k_cosines: Tensor, key_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the keys and values nearest to each centroid, (batch, heads, clusters, window, ·), and their mask."""
        if key_mask is not None:
            k_cosines = k_cosines.masked_fill(~key_mask[:, None, :, None], -torch.inf)
        largest, index = k_cosines.transpose(2, 3).topk(min(self.window, k.shape[2]), dim=3)
        k, v = (gather_tables(t, index) for t in (k, v))
        return k, v, largest > -torch.inf

    def _cluster_blocks(
        self, k: Tensor, v: Tensor, q_cluster: Tensor, k_cosines: Tensor, key_mask: Tensor | None
    ) -> Blocks:
        """Return blocks of queries of one cluster, with the keys nearest to its centroid."""
        position, block_cluster = assign_blocks(q_cluster, self.clusters, min(self.block, q_cluster.shape[2]))
        k, v, real = (gather_tables(t, block_cluster) for t in self._cluster_tables(k, v, k_cosines, key_mask))
        return position, k, v, None if key_mask is None else real.unsqueeze(3)

    def _past_blocks(
        self, k: Tensor, v: Tensor, q_cluster: Tensor, k_cosines: Tensor, key_mask: Tensor | None
    ) -> Blocks:
        """Return blocks of queries whose last past key lies in one segment, with its keys and those of the one before.

        Segments are numbered through all clusters: those of a cluster follow one another.
        """
        n = q_cluster.shape[2]
        size, block_size = min(self.segment, n), min(self.block, n)
        k_cluster = k_cosines.argmax(-1)
        if key_mask is not None:
            k_cluster = k_cluster.masked_fill(
                ~key_mask[:, None, :], self.clusters
            )  # masked keys have their own cluster
        segments = max_blocks(n, self.clusters + 1, size)
        # with keys sorted by cluster and time, bisection counts the past keys of a query's cluster
        time = torch.arange(n, device=k.device)
        sort_key, order = (k_cluster * n + time).sort(2)
        past_keys = torch.searchsorted(sort_key, q_cluster * n + time, right=True)
        past_keys = past_keys - torch.searchsorted(sort_key, q_cluster * n)
        cluster_size = k_cluster.new_zeros(*k_cluster.shape[:2], self.clusters + 1)
        cluster_size = cluster_size.scatter_add(2, k_cluster, torch.ones_like(k_cluster))
        cluster_segments = -(-cluster_size // size)
        first_segment = cluster_segments.cumsum(2) - cluster_segments
        rank = torch.zeros_like(order).scatter(2, order, time.expand_as(order))
        k_position = rank + (first_segment * size - cluster_size.cumsum(2) + cluster_size).gather(2, k_cluster)
        q_segment = first_segment.gather(2, q_cluster) + (past_keys - 1).clamp(min=0) // size
        q_position, block_segment = assign_blocks(q_segment.clamp(max=segments - 1), segments, block_size)

        def with_previous(t: Tensor) -> Tensor:
            """Return the segment of each block, and before it the previous one: (batch, heads, blocks, 2 size, ·)."""
            pair = torch.stack([(block_segment - 1).clamp(min=0), block_segment], 3)
            return gather_tables(scatter_to_blocks(t, k_position, segments, size), pair).flatten(3, 4)

        # time + 1 and cluster of each query and of each key; 0 where a segment has no key
        queries = torch.stack([time.expand_as(q_cluster) + 1, q_cluster], 3)
        queries = scatter_to_blocks(queries, q_position, block_segment.shape[2], block_size)
        keys = with_previous(torch.stack([time.expand_as(k_cluster) + 1, k_cluster], 3)).unsqueeze(3)
        seen = (keys[..., 0] > 0) & (keys[..., 0] <= queries[..., :1]) & (keys[..., 1] == queries[..., 1:])
        # segment 0 has no previous one: it stands there twice
        repeated = (block_segment == 0)[..., None, None] & (torch.arange(2 * size, device=k.device) < size)
        return q_position, with_previous(k), with_previous(v), seen & ~repeated
