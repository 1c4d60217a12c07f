"""Sparsifiner (Wei et al., arXiv 2303.13755): each query attends to the keys that a predicted map of weights names.

In each head q' = W q and k' = W' k have half the channels. With P (keys, rank) and P' (rank, keys), where the rank is
the number of keys divided by `reduction`, the predicted map is

    A' = c |P'|,   c = the `coefficients` largest entries of each row of softmax(q' (P^T k')^T / sqrt(heads))

where entries of |P'| below 0.02 count as zero. Row i attends by softmax(q k^T / sqrt(dim)) to the ceil(`keep` m_i) keys
with the largest A'_ij, of m_i that it sees; of equal ones to the earlier. The choice has no gradient. So W, W', P and
P' learn in training from `aux_loss`: `reconstruct` times the sum over j of (B_ij - A_ij)^2, averaged over rows and
heads. A is the whole map of softmax attention, and B the prediction with all coefficients and with P' as it is, in CS
A' itself. (The authors first train for this loss alone, then freeze it. Their W and W' have biases. They leave the row
of a class token dense.)

- NS: native. NC and CC: of the same form; a row uses its own query and all keys. P and P' belong to positions of keys.
- CS (ours): A' = softmax(q' k'^T / sqrt(heads)) over the keys up to the query's own, as the rows of P^T k' would hold
  later ones.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import cache_of, extend_cache, visible_in_cache
from cab.ops.precision import full_precision, wide_linear, widened
from cab.ops.softmax import masked_softmax, softmax_attention, softmax_weights, visible
from cab.ops.top_k import share_of, top_k, top_share

Maybe = Tensor | None
SMALLEST = 0.02  # entries of P' that count


class Sparsifiner(Mechanism):
    """A small network foresees which keys matter to a query, and the others are left out."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "native"}
    paper = "arXiv 2303.13755"
    cost = "O(n m^2 / r + n m d)"
    titles = ("Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",)
    rasters = {"NS": (1, 2, 3), "NC": (1, 2)}
    accepts = {"keep": "> 0, <= 1", "reduction": ">= 1", "coefficients": ">= 1", "reconstruct": ">= 0"}
    checks = ({"keep": 0.3, "coefficients": 3}, {"keep": 0.6, "reduction": 2})
    limits = ({"params": {"keep": 1.0}, "equals": "softmax"},)

    def __init__(
        self, slot: Any, *, keep: float = 0.25, reduction: int = 6, coefficients: int = 8, reconstruct: float = 1.0
    ) -> None:
        super().__init__(slot)
        self.keep, self.coefficients, self.reconstruct = keep, coefficients, reconstruct
        half, self.causal_self = max(slot.dim // 2, 1), slot.pattern is Pattern.CS
        self.of_query, self.of_key = (nn.Linear(slot.dim, half, bias=False) for _ in range(2))
        if not self.causal_self:
            rank = -(-slot.keys // reduction)
            self.down = nn.Parameter(torch.empty(slot.keys, rank).uniform_(-(slot.keys**-0.5), slot.keys**-0.5))
            bound = max(rank**-0.5, 2 * SMALLEST)  # so that half of its entries count, however many keys there are
            self.up = nn.Parameter(torch.empty(rank, slot.keys).uniform_(-bound, bound))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Predict the map, choose, and attend; in training leave the loss of the prediction."""
        n, m = q.shape[2], k.shape[2]
        seen = visible(self.slot.pattern, n, m, key_mask, q.device)
        seen = torch.ones(1, m, dtype=torch.bool, device=q.device) if seen is None else seen
        shares = self._shares(q, self._index(k, key_mask), seen)
        if self.training and self.reconstruct:
            whole = shares if self.causal_self else shares @ self.up[:, :m].to(shares.dtype)
            target = softmax_weights(q, k, seen).detach().to(whole.dtype)
            error = (whole.masked_fill(~seen, 0.0) - target).square().sum(3).mean(1)
            real = torch.ones_like(error) if query_mask is None else query_mask.to(error.dtype)
            self.aux_loss = self.reconstruct * (error * real).sum() / real.sum().clamp(min=1)
        return softmax_attention(q, k, v, self._choose(self._predicted(shares, m), seen))

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Sort the predicted map of each row, and attend to what comes first."""
        real = torch.ones(k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask[0]
        with full_precision(q.device.type):
            half_q, half_k = (
                widened(t[0]) @ m.weight.to(widened(t).dtype).T for t, m in ((q, self.of_query), (k, self.of_key))
            )
            if not self.causal_self:
                wide = half_q.dtype
                half_k = self.down[: len(real)].to(wide)[real].T @ half_k[:, real]
                c = (half_q @ half_k.mT / self.slot.heads**0.5).softmax(-1)
                least = c.sort(-1, descending=True).values[..., : self.coefficients][..., -1:]
                up = self.up[:, : len(real)].to(wide).abs()
                predicted = c * (c >= least) @ (up * (up >= SMALLEST))
            else:
                predicted = half_q @ half_k.mT
        out = v.new_zeros(*q.shape[:3], v.shape[3])
        for head, rows in enumerate(predicted.tolist()):
            for i, row in enumerate(rows):
                own = [j for j in real.nonzero()[:, 0].tolist() if not self.causal_self or j <= i]
                if own:
                    best = sorted(own, key=lambda j: (-row[j], j))[: share_of(len(own), self.keep)]
                    weights = (q[0, head, i] @ k[0, head, best].T / self.slot.dim**0.5).softmax(-1)
                    out[0, head, i] = weights @ v[0, head, best]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the predicted map, and attention to all keys."""
        return self._predicting(n, m, m) + 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """Count attention to the chosen keys alone, and the coefficients that are not zero."""
        rows = range(1, n + 1) if self.causal_self else [m] * n
        pairs = sum(share_of(seen, self.keep) for seen in rows)
        scored = sum(rows) / n
        return self._predicting(n, m, scored, self.coefficients) + 2.0 * self.slot.heads * pairs * (
            self.slot.dim + self.slot.values
        )

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None) -> Any:
        """Cache keys, values and what predicts: P^T k' of the source (CC), or the k' of no token (CS)."""
        index = self._index(k, key_mask)
        if self.causal_self:
            return (cache_of((k, v, index), key_mask),)
        return cache_of((k, v), key_mask), index

    def step(
        self, state: Any, q: Tensor, k: Maybe = None, v: Maybe = None, key_mask: Maybe = None
    ) -> tuple[Tensor, Any]:
        """Cache the new tokens (CS), and choose among all that are cached."""
        cache, *of_source = state
        position = None
        if k is not None and v is not None:
            cache, position = extend_cache(cache, (k, v, self._index(k, key_mask)), key_mask)
        seen, (k, v, *of_keys) = visible_in_cache(cache, position), cache[0]
        shares = self._shares(q, (of_source or of_keys)[0], seen)
        chosen = self._choose(self._predicted(shares, k.shape[2]), seen)
        return softmax_attention(q, k, v, chosen), (cache, *of_source)

    def _index(self, k: Tensor, key_mask: Maybe) -> Tensor:
        """Return k' (CS), or P^T k', in float32 at least, as scores that are compared."""
        half = wide_linear(self.of_key, k)
        half = half if key_mask is None else half.masked_fill(~key_mask[:, None, :, None], 0.0)
        if self.causal_self:
            return half
        with full_precision(k.device.type):
            return self.down[: k.shape[2]].to(half.dtype).T @ half

    def _shares(self, q: Tensor, index: Tensor, seen: Tensor) -> Tensor:
        """Return the softmax over rows of P', (batch, heads, n, rank), or over keys (CS)."""
        half = wide_linear(self.of_query, q) * self.slot.heads**-0.5
        with full_precision(q.device.type):
            scores = half @ index.mT
            return masked_softmax(scores, seen) if self.causal_self else scores.softmax(-1)

    def _predicted(self, shares: Tensor, m: int) -> Tensor:
        """Return A' (batch, heads, n, m)."""
        if self.causal_self:
            return shares
        with full_precision(shares.device.type):
            up = self.up[:, :m].to(shares.dtype).abs()
            largest, _ = top_k(shares, self.coefficients)
            kept = torch.zeros_like(shares).scatter(-1, largest, shares.gather(-1, largest))
            return kept @ (up * (up >= SMALLEST))

    def _choose(self, predicted: Tensor, seen: Tensor) -> Tensor:
        """Return the mask of the chosen keys, (batch, heads, n, m)."""
        order, counts = top_share(predicted, self.keep, seen)
        return torch.zeros_like(predicted, dtype=torch.bool).scatter(-1, order, counts)

    def _predicting(self, n: int, m: int, scored: float, coefficients: int | None = None) -> float:
        """Count the predicted map of n queries, for `scored` keys a query in CS."""
        half = self.of_key.out_features
        maps = (n + m) * self.of_key.weight.numel()
        if self.causal_self:
            return 2.0 * self.slot.heads * (maps + n * scored * half)
        rank = self.down.shape[1]
        read = rank if coefficients is None else min(coefficients, rank)
        return 2.0 * self.slot.heads * (maps + (n + m) * rank * half + n * read * m)
