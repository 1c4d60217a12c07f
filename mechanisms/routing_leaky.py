"""Routing attention as published (Roy et al., arXiv 2003.05997, algorithm 1): a centroid takes its nearest tokens.

Directions of queries and keys are compared with centroids, which follow them as an exponential average in training
(online k-means); as many clusters as hold `window` of the slot's keys each on average. Each centroid takes the
`window` queries and the `window` keys nearest to it, the queries attend to the keys, and a query that several
centroids took gets the mean of what it read; one that none took, zeros. Queries and keys stay apart in CS too, where
the paper shares them, and centroids begin at random.

Leaky: in CS a centroid takes a query only if no later ones are nearer, and drops keys for later ones. `routing` is
strict.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.buckets import gather_tables
from cab.ops.clusters import commitment_loss, cosine_similarity, random_centroids, update_centroids
from cab.ops.softmax import masked_softmax


class RoutingLeaky(Mechanism):
    """Centroids take queries and keys, which attend among themselves."""

    patterns = {"NS": "native", "CS": "leaky", "NC": "native"}
    refuses = {"CC": "a centroid compares a query with later ones; `routing` does not"}
    paper = "arXiv 2003.05997"
    cost = "O(n w d + (n + m) (m / w) d)"
    checks = ({"window": 8}, {"window": 5}, {"window": 16})
    limits = ({"params": {"window": 64}, "equals": "softmax"},)

    centroids: Tensor

    def __init__(self, slot: Any, *, window: int = 128, decay: float = 0.999, commitment: float = 0.0001) -> None:
        super().__init__(slot)
        if window < 1:
            raise ValueError(f"window={window}: at least 1 is needed")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: from 0 to 1")
        if commitment < 0:
            raise ValueError(f"commitment={commitment}: 0 or more")
        self.window, self.decay, self.commitment = window, decay, commitment
        self.clusters = -(-slot.keys // window)
        self.register_buffer("centroids", random_centroids(slot.heads, self.clusters, slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Gather what each centroid took, attend, and add up where it came from."""
        near_q, near_k = cosine_similarity(q, self.centroids), cosine_similarity(k, self.centroids)
        queries, is_query = self._taken(near_q, query_mask)  # (batch, heads, clusters, window)
        keys, is_key = self._taken(near_k, key_mask)
        seen = None if key_mask is None else is_key.unsqueeze(3)
        if self.slot.pattern is Pattern.CS:
            past = keys.unsqueeze(3) <= queries.unsqueeze(4)
            seen = past if seen is None else seen & past
        scores = (gather_tables(q, queries) * self.slot.dim**-0.5) @ gather_tables(k, keys).transpose(-1, -2)
        # a column of ones counts how often a query was taken
        read = torch.nn.functional.pad(masked_softmax(scores, seen) @ gather_tables(v, keys), (0, 1), value=1.0)
        read = (read if query_mask is None else read.masked_fill(~is_query.unsqueeze(4), 0.0)).flatten(2, 3)
        total = read.new_zeros(*q.shape[:3], read.shape[3])
        total = total.scatter_add(2, queries.flatten(2).unsqueeze(3).expand_as(read), read)
        if self.training:
            mine, own = near_q.argmax(-1), near_k.argmax(-1)
            update_centroids(self.centroids, q, mine, query_mask, self.decay)
            update_centroids(self.centroids, k, own, key_mask, self.decay)
            loss = commitment_loss(q, self.centroids, mine, query_mask)
            loss = loss + commitment_loss(k, self.centroids, own, key_mask)
            self.aux_loss = self.commitment * loss
        return total[..., :-1] / total[..., -1:].clamp(min=1)

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Go through the centroids one by one."""
        out = q.new_zeros(*q.shape[:3], v.shape[3])
        wide = torch.promote_types(q.dtype, torch.float32)
        for b in range(q.shape[0]):
            for h in range(self.slot.heads):
                rows: list[list[Tensor]] = [[] for _ in range(q.shape[2])]
                for mean in self.centroids[h].to(wide):
                    taken = []
                    for t, mask in ((q, query_mask), (k, key_mask)):
                        direction = t[b, h].to(wide) / t[b, h].to(wide).norm(dim=1, keepdim=True)
                        near = torch.einsum("id,d->i", direction, mean)
                        real = torch.ones_like(near, dtype=torch.bool) if mask is None else mask[b]
                        order = near.masked_fill(~real, -torch.inf).sort(descending=True).indices
                        taken.append(order[: min(self.window, int(real.sum()))])
                    for i in taken[0].tolist():
                        keys = taken[1][taken[1] <= i] if self.slot.pattern is Pattern.CS else taken[1]
                        row = (k[b, h, keys] @ q[b, h, i] / self.slot.dim**0.5).softmax(0) @ v[b, h, keys]
                        rows[i].append(row)
                for i, found in enumerate(rows):
                    if found:
                        out[b, h, i] = torch.stack(found).mean(0)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Similarities to the centroids, and scores and sums of each cluster."""
        dim, size = self.slot.dim, self.slot.values
        pairs = self.clusters * min(self.window, n) * min(self.window, m)
        return 2.0 * self.slot.heads * ((n + m) * self.clusters * dim + pairs * (dim + size))

    def _taken(self, near: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens nearest to each centroid, (batch, heads, clusters, window), and which of them are real."""
        if mask is not None:
            near = near.masked_fill(~mask[:, None, :, None], -torch.inf)
        best, index = near.transpose(2, 3).topk(min(self.window, near.shape[2]), dim=3)
        return index, best > -torch.inf
