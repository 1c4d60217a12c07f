"""Routing attention as published (Roy et al., arXiv 2003.05997, algorithm 1): a centroid selects its nearest tokens.

Directions of queries and keys are compared with centroids, which follow them as an exponential average in training
(online k-means). There are keys / `window` clusters, rounded up. Each centroid selects the `window` queries and the
`window` keys nearest to it, and these queries attend to these keys. A query in several clusters gets the mean of its
results, and one in no cluster gets zeros. In CS, too, queries and keys are separate, where the paper shares them.
Centroids are initialised at random.

Leaky: in CS a later query or key that is nearer to a centroid displaces an earlier one. `routing` is strict.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism, Pattern
from cab.ops.buckets import gather_tables
from cab.ops.clusters import commitment_loss, cosine_similarity, random_centroids, update_centroids
from cab.ops.softmax import masked_softmax


class RoutingLeaky(Mechanism):
    """Each centroid selects queries and keys, and its queries attend to its keys."""

    patterns = {"NS": "native", "CS": "leaky", "NC": "native"}
    refuses = {"CC": "a centroid compares a query with later ones; `routing` does not"}
    paper = "arXiv 2003.05997"
    parity = "routing-transformer"
    cost = "O(n w d + (n + m) (m / w) d)"
    accepts = {"window": ">= 1", "commitment": ">= 0", "decay": ">= 0, <= 1"}
    checks = ({"window": 8}, {"window": 5}, {"window": 16})
    limits = ({"params": {"window": 64}, "equals": "softmax"},)

    centroids: Tensor

    def __init__(self, slot: Any, *, window: int = 128, decay: float = 0.999, commitment: float = 0.0001) -> None:
        super().__init__(slot)
        self.window, self.decay, self.commitment = window, decay, commitment
        self.clusters = -(-slot.keys // window)
        self.register_buffer("centroids", random_centroids(slot.heads, self.clusters, slot.dim))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Gather the tokens of each centroid, attend, and add the results to the rows of their queries."""
        q_cosines, k_cosines = cosine_similarity(q, self.centroids), cosine_similarity(k, self.centroids)
        queries, is_query = self._nearest(q_cosines, query_mask)  # (batch, heads, clusters, window)
        keys, is_key = self._nearest(k_cosines, key_mask)
        seen = None if key_mask is None else is_key.unsqueeze(3)
        if self.slot.pattern is Pattern.CS:
            past = keys.unsqueeze(3) <= queries.unsqueeze(4)
            seen = past if seen is None else seen & past
        scores = (gather_tables(q, queries) * self.slot.dim**-0.5) @ gather_tables(k, keys).transpose(-1, -2)
        # a column of ones counts the clusters of a query
        results = torch.nn.functional.pad(masked_softmax(scores, seen) @ gather_tables(v, keys), (0, 1), value=1.0)
        results = (results if query_mask is None else results.masked_fill(~is_query.unsqueeze(4), 0.0)).flatten(2, 3)
        total = results.new_zeros(*q.shape[:3], results.shape[3])
        total = total.scatter_add(2, queries.flatten(2).unsqueeze(3).expand_as(results), results)
        if self.training:
            q_cluster, k_cluster = q_cosines.argmax(-1), k_cosines.argmax(-1)
            update_centroids(self.centroids, q, q_cluster, query_mask, self.decay)
            update_centroids(self.centroids, k, k_cluster, key_mask, self.decay)
            loss = commitment_loss(q, self.centroids, q_cluster, query_mask)
            loss = loss + commitment_loss(k, self.centroids, k_cluster, key_mask)
            self.aux_loss = self.commitment * loss
        return total[..., :-1] / total[..., -1:].clamp(min=1)

    def reference(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Let the nearest queries of each centroid attend to its nearest keys, and average the results of a query."""
        members = []  # whether a token is among the `window` nearest of a centroid: (1, heads, n, clusters)
        for t in (q.double(), k.double()):
            cosines = t / t.norm(dim=-1, keepdim=True) @ self.centroids.double().mT
            members.append(cosines.argsort(2, descending=True).argsort(2) < self.window)
        weights, total = (q @ k.mT / self.slot.dim**0.5).exp(), 0.0
        weights = weights.tril() if self.slot.pattern is Pattern.CS else weights
        for is_query, is_key in zip(*(t.unbind(-1) for t in members), strict=True):  # of one centroid
            own = weights * is_query.unsqueeze(-1) * is_key.unsqueeze(-2)
            row_sums = own.sum(-1, keepdim=True)
            total = total + own / row_sums.where(row_sums > 0, 1.0) @ v
        return total / members[0].sum(-1, keepdim=True).clamp(min=1)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the cosines with the centroids, and two products in each cluster."""
        dim, size = self.slot.dim, self.slot.values
        pairs = self.clusters * min(self.window, n) * min(self.window, m)
        return 2.0 * self.slot.heads * ((n + m) * self.clusters * dim + pairs * (dim + size))

    def _nearest(self, cosines: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the tokens nearest to each centroid, (batch, heads, clusters, window), and which of them are real."""
        if mask is not None:
            cosines = cosines.masked_fill(~mask[:, None, :, None], -torch.inf)
        largest, index = cosines.transpose(2, 3).topk(min(self.window, cosines.shape[2]), dim=3)
        return index, largest > -torch.inf
