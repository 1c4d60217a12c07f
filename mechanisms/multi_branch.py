"""ACMIL's multiple branches with stochastic top-k masking (Zhang et al., arXiv 2311.07125).

Each of M branches scores the keys by what they are, and the branches' maps are averaged:

    y_i = sum_j mean_b softmax_j(q_i . k_j / sqrt(dim) + a_bj) v_j
    a_bj = w_b . (tanh(V y_j) * sigmoid(U y_j))

V and U lead to `hidden` channels and are shared by the branches. Without `query` the product of query and key is left
out, and every row is the mean of all values with the branches' weights: the paper's pooling of a bag.

In training, among the `top` largest scores of each row, branch and head a share `drop` is left out (rounded down),
drawn at random. And `aux_loss` is `diversify` times the mean over pairs of branches of the cosine of softmax_j(a_b)
and softmax_j(a_c), so that branches look at different keys. The paper's losses of each branch alone are its model's.

NS and NC are the paper's, as pooling; with `query` they are ours. In CC a row uses its own query alone. In CS (ours) it
sees the keys up to its own before the largest scores are looked for.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Pattern
from cab.ops.pairwise import Pairwise
from cab.ops.precision import widened
from cab.ops.softmax import masked_softmax, repeat_heads
from cab.ops.top_k import top_k

Maybe = Tensor | None
ROUNDING = 1e-6  # 0.7 * 10 falls below 7 by rounding


class MultiBranch(Pairwise):
    """Several maps of weights, averaged; in training each loses some of its largest weights."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "extension"}
    ours = ({"query": True},)
    paper = "arXiv 2311.07125"
    cost = "O(M n m + n m d)"
    titles = ("Attention-Challenging Multiple Instance Learning for Whole Slide Image Classification",)
    reads = (("v", {"query": False}), "qkv")
    inputs = {"y": ("keys", "real", "width")}
    grouped = True
    accepts = {"branches": ">= 1", "hidden": ">= 1", "top": ">= 1", "drop": ">= 0, < 1", "diversify": ">= 0"}
    checks = ({"branches": 3, "hidden": 7, "top": 5}, {"branches": 2, "query": False, "drop": 0.0})
    limits = ({"params": {"branches": 1}, "weights": {"branch.weight": 0.0}, "equals": "softmax"},)
    exempt = {"modes": "in training large weights are dropped at random"}

    def __init__(
        self,
        slot: Any,
        *,
        branches: int = 5,
        hidden: int = 128,
        query: bool = True,
        top: int = 10,
        drop: float = 0.6,
        diversify: float = 1.0,
    ) -> None:
        super().__init__(slot)
        self.branches, self.query, self.top, self.drop, self.diversify = branches, query, top, drop, diversify
        self.content, self.gate = nn.Linear(slot.tokens, hidden), nn.Linear(slot.tokens, hidden)
        self.branch = nn.Linear(hidden, branches, bias=False)

    def attend(
        self, q: Maybe, k: Maybe, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, **inputs: Tensor
    ) -> Tensor:
        """Average the maps; in training leave the loss of branches that look alike."""
        if self.training and self.diversify and self.branches > 1:
            self.aux_loss = self.diversify * similarity(self._scores(inputs["y"]), key_mask)
        return super().attend(self._rows(q, v, query_mask), k, v, key_mask, query_mask, **inputs)

    def step(
        self, state: Any, q: Maybe, k: Maybe = None, v: Maybe = None, key_mask: Maybe = None, **inputs: Any
    ) -> tuple[Tensor, Any]:
        """Cache the new tokens (CS), and average the maps over what is cached."""
        return super().step(state, self._rows(q, v, key_mask), k, v, key_mask, **inputs)

    def keep(self, k: Maybe, v: Tensor, position: Tensor, *, y: Tensor) -> tuple[Tensor, ...]:
        """Keep the value and the branches' scores; and the key, where queries ask for it."""
        kept = v, self._scores(y).unsqueeze(1)
        return kept if k is None else (k, *kept)

    def read(self, q: Tensor, *kept: Tensor, seen: Maybe, **_: Any) -> Tensor:
        """Add up the branches' weights."""
        *keys, v, own = kept
        scores = own.new_zeros(len(q), 1, q.shape[2], 1)
        if keys:
            scores = (q * self.slot.dim**-0.5) @ repeat_heads(keys[0], self.slot.heads).mT
        maps: Tensor | float = 0.0
        for branch in own.unbind(3):
            logits = scores + branch.unsqueeze(2)
            maps = maps + masked_softmax(logits, self._staying(logits, seen))
        return (maps / self.branches).to(v.dtype) @ repeat_heads(v, self.slot.heads)

    def reference(self, q: Maybe, k: Maybe, v: Tensor, query_mask: Maybe = None, *, y: Tensor) -> Tensor:
        """Write the map of each branch."""
        v = v.repeat_interleave(self.slot.heads // v.shape[1], 1)
        n, m = v.shape[2] if query_mask is None else query_mask.shape[1], v.shape[2]
        scores = v.new_zeros(1, 1, 1, m)
        if q is not None and k is not None:
            n, k = q.shape[2], k.repeat_interleave(self.slot.heads // k.shape[1], 1)
            scores = q @ k.mT / self.slot.dim**0.5
        seen = torch.ones(n, m, dtype=torch.bool, device=v.device)
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        hidden = self.content(y).tanh() * self.gate(y).sigmoid()
        own = [(hidden @ weight).view(1, 1, 1, m) for weight in self.branch.weight]
        maps = [(scores + each).masked_fill(~seen, -torch.inf).softmax(-1) for each in own]
        return torch.stack(maps).mean(0) @ v

    @property
    def pair_flops(self) -> float:
        """A score where queries ask, and a weighed value."""
        return 2.0 * self.slot.heads * (self.slot.values + (self.slot.dim if self.query else 0))

    def own_flops(self, n: int, m: int) -> float:
        """Count the scores of the keys."""
        return 2.0 * m * sum(layer.weight.numel() for layer in (self.content, self.gate, self.branch))

    def _scores(self, y: Tensor) -> Tensor:
        """Return the branches' scores of the keys, (batch, m, branches)."""
        scores: Tensor = self.branch(self.content(y).tanh() * self.gate(y).sigmoid())
        return scores

    def _rows(self, q: Maybe, v: Maybe, query_mask: Maybe) -> Tensor:
        """Return q; where it is not read, something of as many rows."""
        if q is not None:
            return q
        if query_mask is not None:
            return query_mask[:, None, :, None]
        assert v is not None  # in cross patterns there is a mask where q is not read
        return v

    def _staying(self, logits: Tensor, seen: Maybe) -> Maybe:
        """Return which keys stay: in training some of the largest of each row do not."""
        if not self.training or not self.drop:
            return seen
        order, counts = top_k(logits, self.top, seen)
        counts = torch.ones_like(order, dtype=torch.bool) if counts is None else counts
        number = (self.drop * counts.sum(-1, keepdim=True) + ROUNDING).floor()
        draw = torch.rand(order.shape, device=order.device).masked_fill(~counts, -1.0)
        drawn = draw.argsort(-1, descending=True).argsort(-1) < number
        stays = torch.ones_like(logits, dtype=torch.bool).scatter(-1, order, ~drawn)
        return stays if seen is None else stays & seen


def similarity(scores: Tensor, key_mask: Maybe) -> Tensor:
    """Return the mean cosine of two branches' maps, from scores (batch, m, branches), over samples with a key."""
    real = None if key_mask is None else key_mask.unsqueeze(1)
    maps = F.normalize(masked_softmax(widened(scores).mT, real), dim=-1)
    cosines, branches = maps @ maps.mT, scores.shape[2]
    mean = (cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)) / (branches * (branches - 1))
    exists = torch.ones_like(mean) if key_mask is None else key_mask.any(1).to(mean.dtype)
    return (mean * exists).sum() / exists.sum().clamp(min=1)
