"""Gated positional self-attention, ConViT's (d'Ascoli et al., arXiv 2103.10697): a content map and a position map.

    y_i = sum_j ((1 - g) softmax_j(q_i . k_j / sqrt(dim)) + g softmax_j(w . r_ij)) v_j,   g = sigmoid(gate)

r_ij holds the offsets of key j from query i along each axis, and their sum of squares; gate and w are of each head.
Both maps have rows that sum to one, so the authors' last division by the row sum changes nothing, and a constant in
w . r_ij would cancel. gate is 1 at first, and w lets each head look at one offset d: w . r_ij = strength times
(|d|^2 - |c_j - c_i - d|^2), up to a constant. On an image the heads' offsets fill a square of floor(sqrt(heads)) places
a side, with its middle at the query; heads beyond the square keep random weights. The authors also begin with the
identity as the projection of the values, which is the layer's.

- NS: native on images; sequences, with as many offsets as heads, and volumes are ours.
- CS (ours): both softmaxes run over the tokens up to the query's own, and at first the heads look back.
- NC and CC (ours): query p of N stands at key floor(p S / N) on each axis; N and S are the slot's sizes.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.cache import empty_cache, extend_cache, visible_in_cache
from cab.ops.precision import at_least_float32
from cab.ops.raster_places import centres, places
from cab.ops.softmax import masked_softmax, repeat_heads, visible

Mask = Tensor | None


class Gpsa(Mechanism):
    """Every head mixes what looks alike with what lies at its offset."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    paper = "arXiv 2103.10697"
    cost = "O(n m d)"
    titles = ("ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",)
    rasters = {"NS": (1, 2, 3), "NC": (1, 2), "CC": (1, 2)}
    grouped = True
    limits = ({"params": {}, "weights": {"gate": -1000.0}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, strength: float = 1.0) -> None:
        super().__init__(slot)
        self.raster, self.source = slot.raster or (slot.max_len,), slot.source_raster or (slot.keys,)
        axes = len(self.raster)
        self.gate = nn.Parameter(torch.ones(slot.heads, 1, 1))
        self.weight = nn.Parameter(
            torch.empty(slot.heads, axes + 1).uniform_(-((axes + 1) ** -0.5), (axes + 1) ** -0.5)
        )
        side = int(slot.heads ** (1 / axes) + 1e-6)
        middle = side - 1 if slot.pattern is Pattern.CS else (side - 1) / 2
        head = torch.arange(side**axes)
        offset = torch.stack([head // side**axis % side - middle for axis in range(axes)], 1)
        with torch.no_grad():
            self.weight[: side**axes] = strength * torch.cat([2 * offset, -torch.ones(len(head), 1)], 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None) -> Tensor:
        """Write both (queries, keys) matrices of weights."""
        n, m = q.shape[2], k.shape[2]
        query, key = centres(self.raster, self.source, q.device)[:n], places(self.source, q.device)[:m]
        return self._read(q, k, v, query, key, visible(self.slot.pattern, n, m, key_mask, q.device))

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Mask = None, query_mask: Mask = None) -> Tensor:
        """Write out every r_ij, head by head."""
        query = torch.cartesian_prod(*(torch.arange(n) * s // n for n, s in zip(self.raster, self.source, strict=True)))
        key = torch.cartesian_prod(*map(torch.arange, self.source))
        query, key = query.view(prod(self.raster), -1)[: q.shape[2]], key.view(prod(self.source), -1)[: k.shape[2]]
        offset = key - query[:, None]
        r = torch.cat([offset, (offset**2).sum(-1, keepdim=True)], -1).to(at_least_float32(q))
        seen, out = torch.ones(len(query), len(key), dtype=torch.bool), []
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        seen = seen if key_mask is None else seen & key_mask[0]
        for head, (w, gate) in enumerate(zip(self.weight, self.gate.flatten(), strict=True)):
            key_head, g = head * k.shape[1] // self.slot.heads, 1 / (1 + (-gate).exp())
            content = masked_softmax(q[0, head] @ k[0, key_head].mT / self.slot.dim**0.5, seen)
            position = masked_softmax(r @ w.to(r.dtype), seen).to(q.dtype)
            out.append(((1 - g) * content + g * position) @ v[0, key_head])
        return torch.stack(out).unsqueeze(0)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count scores and sums over all n m pairs; the offsets are weighed entry by entry."""
        return 2.0 * self.slot.heads * n * m * (self.slot.dim + self.slot.values)

    def flops_needed(self, n: int, m: int) -> float:
        """In causal self attention, count the pairs on and below the diagonal alone."""
        pairs = n * (n + 1) // 2 if self.slot.pattern is Pattern.CS else n * m
        return 2.0 * self.slot.heads * pairs * (self.slot.dim + self.slot.values)

    def init_state(self, k: Tensor, v: Tensor, key_mask: Mask = None) -> Any:
        """Cache the source (CC) or nothing yet (CS), and count the queries."""
        cache = extend_cache(empty_cache(k[:, :, :0], v[:, :, :0]), (k, v), key_mask)[0]
        return cache, torch.zeros(k.shape[0], 1, dtype=torch.long, device=k.device)

    def step(self, state: Any, q: Tensor, k: Mask = None, v: Mask = None, key_mask: Mask = None) -> tuple[Tensor, Any]:
        """Cache the new tokens (CS), and let each query read what is cached up to it (CS), or everything (CC)."""
        cache, count = state
        new = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device) if key_mask is None else key_mask
        position = (count + new.cumsum(1) - 1).clamp(min=0)
        if k is not None and v is not None:
            cache, _ = extend_cache(cache, (k, v), key_mask)
        keys, values = cache[0]
        query = centres(self.raster, self.source, q.device)[position]
        seen = visible_in_cache(cache, None if self.slot.pattern.cross else position)
        out = self._read(q, keys, values, query, places(self.source, q.device)[: keys.shape[2]], seen)
        return out, (cache, count + new.sum(1, keepdim=True))

    def _read(self, q: Tensor, k: Tensor, v: Tensor, query: Tensor, key: Tensor, seen: Mask) -> Tensor:
        """Attend; `query` (n, axes) or (batch, n, axes) and `key` (m, axes) are places."""
        content = masked_softmax((q * self.slot.dim**-0.5) @ repeat_heads(k, self.slot.heads).transpose(-1, -2), seen)
        weight, square = self.weight.to(at_least_float32(q)), 0.0
        scores: Tensor | float = 0.0
        for axis in range(len(self.raster)):
            offset = (key[:, axis] - query[..., axis].unsqueeze(-1)).to(weight.dtype).unsqueeze(-3)
            scores, square = scores + weight[:, axis, None, None] * offset, square + offset**2
        position = masked_softmax(scores + weight[:, -1, None, None] * square, seen).to(content.dtype)
        weights = torch.lerp(content, position.expand_as(content), self.gate.sigmoid().to(content.dtype))
        return weights @ repeat_heads(v, self.slot.heads)
