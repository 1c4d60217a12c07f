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

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, next_positions, visible_in_cache
from cab.ops.precision import at_least_float32, full_precision
from cab.ops.rotary import rotate
from cab.ops.softmax import masked_softmax, visible

Mask = Tensor | None
LEVELS = 255  # a weight counts in steps of 1 / 255, as a pixel does


class CoarseToFine(Mechanism):
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

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None, *, fine: Tensor
    ) -> Tensor:
        """Attend to the coarse tokens, select, and attend to both."""
        n, m = q.shape[2], k.shape[2]
        position = torch.arange(max(n, m), device=q.device)
        keys = self._keys(k, v, fine, position[:m])
        seen = visible(self.slot.pattern, n, m, key_mask, q.device)
        seen = torch.ones(1, m, dtype=torch.bool, device=q.device) if seen is None else seen
        return self._read(rotate(q, position[:n], self.base), *keys, seen)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, *, fine: Tensor) -> Tensor:
        """Query by query, list the coarse tokens that are read finely."""
        n, m, rows = q.shape[2], k.shape[2], []
        place = torch.arange(max(n, m))
        q, k = rotate(q, place[:n], self.base), rotate(k, place[:m], self.base)
        parts = fine[0].unflatten(1, (self.tokens, -1))  # (m, tokens, width / tokens)
        fine_v = self.of_value(parts).unflatten(2, (q.shape[1], -1)).permute(2, 0, 1, 3)
        fine_k = self.of_key(parts).unflatten(2, (q.shape[1], -1)).permute(2, 1, 0, 3)
        fine_k = rotate(fine_k, place[:m], self.base).transpose(1, 2)  # (heads, m, tokens, dim)
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

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the projections of the fine tokens, and two products over all coarse and fine keys."""
        sizes = self.slot.dim + self.slot.values
        return 2.0 * self.slot.heads * sizes * (m * self.slot.tokens + (1 + self.tokens) * n * m)

    def flops_needed(self, n: int, m: int) -> float:
        """Count attention to the coarse keys, in CS to those up to the query; the fine ones are the data's to say."""
        pairs = n * (n + 1) / 2 if self.slot.pattern is Pattern.CS else n * m
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None, *, fine: Tensor) -> Any:
        """Keep coarse and fine keys and values: of the source (CC), or of no token (CS)."""
        source = self._cached(*self._keys(k, v, fine, torch.arange(k.shape[2], device=k.device)))
        return extend_cache(empty_cache(*(t[:, :, :0] for t in source)), source, key_mask)[0]

    def step(
        self, state: Any, q: Tensor, k: Mask = None, v: Mask = None, key_mask: Mask = None, *, fine: Mask = None
    ) -> tuple[Tensor, Any]:
        """Keep the new tokens (CS), and attend to all that are kept."""
        position = None
        if k is not None and v is not None and fine is not None:
            position = next_positions(state, k.shape[2], key_mask)
            state, _ = extend_cache(state, self._cached(*self._keys(k, v, fine, position)), key_mask)
            q = rotate(q, position, self.base)
        k, v, *of_fine = state[0]
        fine_k, fine_v = (t.unflatten(-1, (self.tokens, -1)).flatten(2, 3) for t in of_fine)
        return self._read(q, k, v, fine_k, fine_v, visible_in_cache(state, position)), state

    def _keys(self, k: Tensor, v: Tensor, fine: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        """Return coarse keys and values, and fine ones, (batch, heads, m * tokens, ·), all at their positions."""
        parts = fine.unflatten(-1, (self.tokens, -1)).flatten(1, 2)
        of_fine = (f(parts).unflatten(-1, (k.shape[1], -1)).transpose(1, 2) for f in (self.of_key, self.of_value))
        fine_k, fine_v = (t.to(v.dtype) for t in of_fine)
        fine_k = rotate(fine_k, position.repeat_interleave(self.tokens, -1), self.base)
        return rotate(k, position, self.base), v, fine_k, fine_v

    def _cached(self, k: Tensor, v: Tensor, *of_fine: Tensor) -> tuple[Tensor, ...]:
        """Put the fine tokens of a coarse one side by side, so that they have one place in the cache."""
        return k, v, *(t.unflatten(2, (-1, self.tokens)).flatten(3) for t in of_fine)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, fine_k: Tensor, fine_v: Tensor, seen: Tensor) -> Tensor:
        dtype = at_least_float32(q)
        with full_precision(q.device.type):
            q, k, fine_k = q.to(dtype) * self.slot.dim**-0.5, k.to(dtype), fine_k.to(dtype)
            scores, of_fine = q @ k.mT, q @ fine_k.mT
            share = masked_softmax(scores.detach(), seen).sum(1, keepdim=True)
            least = share.masked_fill(~seen, torch.inf).amin(-1, keepdim=True)
            span = share.amax(-1, keepdim=True) - least
            level = (LEVELS * ((share - least) / span.where(span > 0, 1.0))).floor()
            read = ((level > self.threshold) & seen).repeat_interleave(self.tokens, -1)
            seen = torch.cat([seen.expand(*read.shape[:3], -1), read], -1)
            weights = masked_softmax(torch.cat([scores, of_fine], -1), seen)
        return weights.to(v.dtype) @ torch.cat([v, fine_v], 2)
