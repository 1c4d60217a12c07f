"""Global-local cross attention (Zhu et al., DCAL, arXiv 2205.02151), in a form of one layer: the best rows attend.

The map of softmax attention, averaged over heads, says how much the first token, the class token, attends to each
token. The ceil(`share` n) tokens that it attends to most have the output of softmax attention as queries, and the
output of all other tokens is zero, so that the layer's residual passes them on. The paper takes shares of 0.1
(fine-grained categories) and 0.3 (re-identification).

There the tokens are chosen by attention rollout, the product of the maps of all layers before, and attend in a branch
with projections of its own. A mechanism sees no other layer's map: here it is this layer's, and the projections are
the same. It is of NS alone. The choice has no gradient. With holes the first token is the first that is real.
"""

from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.precision import full_precision, widened
from cab.ops.ragged import gather_tokens
from cab.ops.softmax import softmax_attention, softmax_weights
from cab.ops.top_k import share_of, top_share

Maybe = Tensor | None


class Glca(Mechanism):
    """The tokens that the first one attends to most attend to all."""

    patterns = {"NS": "extension"}
    refuses = {
        "CS": "which rows attend depends on all tokens",
        "NC": "the keys that the first query attends to are the queries that attend: one sequence",
        "CC": "the keys that the first query attends to are the queries that attend: one sequence",
    }
    paper = "arXiv 2205.02151"
    cost = "O(s n^2 d) for a share s of the rows"
    titles = ("Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification",)
    rasters = {"NS": (1, 2, 3)}
    grouped = True
    accepts = {"share": "> 0, <= 1"}
    checks = ({"share": 0.3},)
    limits = ({"params": {"share": 1.0}, "equals": "softmax"},)
    exempt = {"heads": "one choice of rows is made by the mean of all heads"}

    def __init__(self, slot: Any, *, share: float = 0.1) -> None:
        super().__init__(slot)
        self.share = share

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Choose the rows, compute these alone, and put them in their places."""
        n = q.shape[2]
        real = torch.ones(len(q), n, dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        seen = real[:, None, None, :]
        with torch.no_grad(), full_precision(q.device.type):
            first = gather_tokens(q, real.int().argmax(1, keepdim=True))
            score = softmax_weights(widened(first), widened(k), seen).mean(1).squeeze(1)
        rows, counts = top_share(score, self.share, real)
        out = softmax_attention(gather_tokens(q, rows), k, v, seen).masked_fill(~counts[:, None, :, None], 0.0)
        index = rows[:, None, :, None].expand_as(out)
        return out.new_zeros(*q.shape[:3], v.shape[3]).scatter(2, index, out)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Compute all rows, sort them by the first one's weights, and keep the best."""
        real = torch.ones(q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask[0]
        tokens = real.nonzero()[:, 0].tolist()
        k, v = (t.repeat_interleave(self.slot.heads // t.shape[1], 1) for t in (k, v))
        out = v.new_zeros(*q.shape[:3], v.shape[3])
        if not tokens:
            return out
        scores = widened(q[0, :, tokens[0]]).unsqueeze(1) @ widened(k[0, :, real]).mT / self.slot.dim**0.5
        score = dict(zip(tokens, scores.softmax(-1).mean(0)[0].tolist(), strict=True))
        best = sorted(tokens, key=lambda token: (-score[token], token))[: share_of(len(tokens), self.share)]
        out[:, :, best] = (q[:, :, best] @ k[:, :, real].mT / self.slot.dim**0.5).softmax(-1) @ v[:, :, real]
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the first row's scores, and the chosen rows."""
        return (
            2.0 * self.slot.heads * m * (self.slot.dim + share_of(n, self.share) * (self.slot.dim + self.slot.values))
        )
