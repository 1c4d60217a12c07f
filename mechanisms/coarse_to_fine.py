"""The attention of LSceneLLM (arXiv 2412.01292) in one layer: fine tokens are read where coarse ones are looked at.

Of each coarse token j, `tokens` fine ones are given, in the input `fine`: the first width / tokens numbers are those of
the first. With A = softmax(q k^T / sqrt(dim)) over the coarse keys that query i sees, of all heads together,

    a_ij = sum over heads of A_ij,   w_ij = (a_ij - min_j a_ij) / (max_j a_ij - min_j a_ij)
    selected: floor(255 w_ij) > threshold
    o_i = softmax over {all coarse keys} and {the fine keys of selected j}, of their values

Fine keys and values have projections of their own, and rotate at the position of their coarse token. Where all a_ij are
equal, w_ij is 0. The selection has no gradient.

- In the paper one layer selects and the next one reads, which no mechanism of one layer can: here both are one layer's.
  So all four patterns are ours. In CS minimum and maximum are over the keys up to the query.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cab import Pattern
from cab.ops.pairwise import Pairwise
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax

LEVELS = 255  # a weight counts in steps of 1 / 255, as a pixel does


class CoarseToFine(Pairwise):
    """Softmax attention to coarse tokens, and to the fine ones of those that hold weight."""

    patterns = {"NS": "extension", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2412.01292"
    titles = ("LSceneLLM: Enhancing Large 3D Scene Understanding Using Adaptive Visual Preferences",)
    cost = "O(f n m d) for f fine tokens to a coarse one"
    inputs = {"fine": ("keys", "real", "width")}
    rotates = True
    accepts = {"tokens": ">= 1"}
    checks = ({"tokens": 4}, {"tokens": 2, "threshold": 30})
    limits = ({"params": {"threshold": 255}, "equals": "softmax"},)
    exempt = {"heads": "which tokens are read finely depends on the weights of all heads (arXiv 2412.01292)"}

    def __init__(self, slot: Any, *, tokens: int = 4, threshold: int = 96) -> None:
        super().__init__(slot)
        if slot.tokens % tokens:
            raise ValueError(f"tokens={tokens}: a divisor of the width, {slot.tokens}, is needed")
        self.tokens, self.threshold, self.base = tokens, threshold, None if slot.pattern.cross else slot.rotary
        self.of_key = nn.Linear(slot.tokens // tokens, slot.heads * slot.dim)
        self.of_value = nn.Linear(slot.tokens // tokens, slot.heads * slot.values)

    def keep(self, k: Tensor, v: Tensor, position: Tensor, fine: Tensor) -> tuple[Tensor, ...]:
        """Keep coarse keys and values, and the fine ones of a coarse token side by side."""
        parts = fine.unflatten(-1, (self.tokens, -1)).flatten(1, 2)
        of_fine = (f(parts).unflatten(-1, (k.shape[1], -1)).transpose(1, 2) for f in (self.of_key, self.of_value))
        fine_k, fine_v = (t.to(v.dtype) for t in of_fine)
        fine_k = rotate(fine_k, position.repeat_interleave(self.tokens, -1), self.base)
        side_by_side = (t.unflatten(2, (-1, self.tokens)).flatten(3) for t in (fine_k, fine_v))
        return rotate(k, position, self.base), v, *side_by_side

    def read(
        self, q: Tensor, k: Tensor, v: Tensor, *of_fine: Tensor, seen: Any, position: Tensor, query_mask: Any
    ) -> Tensor:
        """Attend to the coarse tokens, select, and attend to both."""
        fine_k, fine_v = (t.unflatten(-1, (self.tokens, -1)).flatten(2, 3) for t in of_fine)
        seen, dtype = k.new_ones(1, k.shape[2], dtype=torch.bool) if seen is None else seen, at_least_float32(q)
        with full_precision(q.device.type):
            q = rotate(q, position, self.base).to(dtype) * self.slot.dim**-0.5
            scores, scores_of_fine = q @ k.to(dtype).mT, q @ fine_k.to(dtype).mT
            share = masked_softmax(scores.detach(), seen).sum(1, keepdim=True)
            least = share.masked_fill(~seen, torch.inf).amin(-1, keepdim=True)
            span = share.amax(-1, keepdim=True) - least
            level = (LEVELS * ((share - least) / span.where(span > 0, 1.0))).floor()
            selected = ((level > self.threshold) & seen).repeat_interleave(self.tokens, -1)
            seen = torch.cat([seen.expand(*selected.shape[:3], -1), selected], -1)
            weights = masked_softmax(torch.cat([scores, scores_of_fine], -1), seen)
        return weights.to(v.dtype) @ torch.cat([v, fine_v], 2)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, fine: Tensor) -> Tensor:
        """Query by query, list the coarse tokens that are read finely."""
        n, m, rows = q.shape[2], k.shape[2], []
        position = torch.arange(max(n, m))
        q, k = rotate(q, position[:n], self.base), rotate(k, position[:m], self.base)
        parts = fine[0].unflatten(1, (self.tokens, -1))  # (m, tokens, width / tokens)
        fine_v = self.of_value(parts).unflatten(2, (q.shape[1], -1)).permute(2, 0, 1, 3)
        fine_k = self.of_key(parts).unflatten(2, (q.shape[1], -1)).permute(2, 1, 0, 3)
        fine_k = rotate(fine_k, position[:m], self.base).transpose(1, 2)  # (heads, m, tokens, dim)
        for i in range(n):
            seen = i + 1 if self.slot.pattern is Pattern.CS else m
            scores = q[0, :, i : i + 1] @ k[0, :, :seen].mT / self.slot.dim**0.5
            share = scores.to(at_least_float32(q)).softmax(-1).sum((0, 1))
            share = (share - share.min()) / (share.max() - share.min()).where(share.max() > share.min(), 1.0)
            read = [j for j, level in enumerate((LEVELS * share).tolist()) if level // 1 > self.threshold]
            of_fine = q[0, :, i : i + 1] @ fine_k[:, read].flatten(1, 2).mT / self.slot.dim**0.5
            weights = torch.cat([scores, of_fine], -1).softmax(-1)
            rows.append(weights @ torch.cat([v[0, :, :seen], fine_v[:, read].flatten(1, 2)], 1))
        return torch.cat(rows, 1).unsqueeze(0)

    def own_flops(self, n: int, m: int) -> float:
        """Count the projections of the fine tokens."""
        return 2.0 * m * self.slot.tokens * self.slot.heads * (self.slot.dim + self.slot.values)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count all coarse and fine keys. What is needed is counted without the fine ones, which the data select."""
        return super().flops(n, m) + self.pair_flops * n * m * self.tokens
