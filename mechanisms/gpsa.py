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

from typing import Any

import torch
from torch import Tensor, nn

from cab import Pattern
from cab.ops.pairwise import Pairwise
from cab.ops.precision import widened
from cab.ops.raster_places import centres, places
from cab.ops.softmax import masked_softmax, repeat_heads, softmax_weights

Maybe = Tensor | None


class Gpsa(Pairwise):
    """Every head mixes what looks alike with what lies at its offset."""

    patterns = {"NS": "native", "CS": "extension", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1, 3)},)
    paper = "arXiv 2103.10697"
    cost = "O(n m d)"
    parity = "timm (convit.GPSA)"
    titles = ("ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases",)
    rasters = {"NS": (1, 2, 3), "NC": (1, 2), "CC": (1, 2)}
    grouped = True
    accepts = {"strength": ">= 0"}
    limits = ({"params": {}, "weights": {"gate": -1000.0}, "equals": "softmax"},)

    def __init__(self, slot: Any, *, strength: float = 1.0) -> None:
        super().__init__(slot)
        self.raster, self.source = slot.raster or (slot.max_len,), slot.source_raster or (slot.keys,)
        axes = len(self.raster)
        bound = (axes + 1) ** -0.5
        self.gate = nn.Parameter(torch.ones(slot.heads, 1, 1))
        self.weight = nn.Parameter(torch.empty(slot.heads, axes + 1).uniform_(-bound, bound))
        side = int(slot.heads ** (1 / axes) + 1e-6)
        middle = side - 1 if slot.pattern is Pattern.CS else (side - 1) / 2
        head = torch.arange(side**axes)
        offset = torch.stack([head // side**axis % side - middle for axis in range(axes)], 1)
        with torch.no_grad():
            self.weight[: side**axes] = strength * torch.cat([2 * offset, -torch.ones(len(head), 1)], 1)

    def read(self, q: Tensor, k: Tensor, v: Tensor, *, seen: Maybe, position: Tensor, **_: Any) -> Tensor:
        """Write both (queries, keys) matrices of weights, and read once with their mixture."""
        query = centres(self.raster, self.source, q.device)[position]  # (n, axes) or (batch, n, axes)
        key, weight = places(self.source, q.device)[: k.shape[2]], widened(self.weight)
        offset = (key - query.unsqueeze(-2)).to(weight.dtype).movedim(-1, 0).unsqueeze(-3)  # (axes, ..., 1, n, m)
        scores = weight[:, -1, None, None] * offset.square().sum(0)
        for axis, along in enumerate(offset.unbind(0)):
            scores = scores + weight[:, axis, None, None] * along
        content = softmax_weights(q, k, seen)
        placed = masked_softmax(scores, seen).to(content.dtype)
        weights = torch.lerp(content, placed.expand_as(content), self.gate.sigmoid().to(content.dtype))
        return weights @ repeat_heads(v, self.slot.heads)

    def reference(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None) -> Tensor:
        """Write out every r_ij, head by head."""
        key = places(self.source, q.device)[: k.shape[2]]
        query = (places(self.raster, q.device) * key.new_tensor(self.source) // key.new_tensor(self.raster))[
            : q.shape[2]
        ]
        offset = key - query[:, None]
        r = torch.cat([offset, (offset**2).sum(-1, keepdim=True)], -1).to(widened(q).dtype)
        seen, out = torch.ones(len(query), len(key), dtype=torch.bool, device=q.device), []
        seen = seen.tril() if self.slot.pattern is Pattern.CS else seen
        seen = seen if key_mask is None else seen & key_mask[0]
        for head, (w, gate) in enumerate(zip(self.weight, self.gate.flatten(), strict=True)):
            key_head, g = head * k.shape[1] // self.slot.heads, 1 / (1 + (-gate).exp())
            content = masked_softmax(q[0, head] @ k[0, key_head].mT / self.slot.dim**0.5, seen)
            position = masked_softmax(r @ w.to(r.dtype), seen).to(q.dtype)
            out.append(((1 - g) * content + g * position) @ v[0, key_head])
        return torch.stack(out).unsqueeze(0)
