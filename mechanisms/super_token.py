"""Super token attention, SViT's (Huang et al., arXiv 2211.11167): tokens gather in super tokens, which attend.

The raster is cut into boxes of `size` places along each axis, one super token each, at first the mean of its tokens x.
In each of `rounds` rounds token i belongs to the super tokens j of its own box and of the boxes around it, by

    a_ij = softmax_j(x_i . s_j / sqrt(width)),   then   s_j = sum_i a_ij x_i / sum_i a_ij.

Softmax attention runs between the super tokens, and y_i = sum_j a_ij s'_j, with the shares a of the last round. The
weights of a mean sum to one, so means and the layer's projections may change places: queries, keys and values are
averaged in place of x. Rotary positions turn a token before it is averaged. As in the authors' code, no gradient runs
through a. There, tokens at a border also belong to super tokens of zeros beyond it; here they do not.

- NS: native on images; sequences and volumes are ours. size=1 is softmax attention, as theirs.
- NC and CC (ours): the source is gathered, and each query attends to its super tokens by itself.
- CS is refused: super tokens hold later tokens.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from cab import Mechanism
from cab.ops.precision import widened
from cab.ops.raster_places import places
from cab.ops.raster_windows import RasterWindows, window_means
from cab.ops.softmax import masked_softmax, softmax_attention

Maybe = Tensor | None


class SuperToken(Mechanism):
    """Tokens are gathered, gathered tokens attend, and tokens read the gathered ones near them."""

    patterns = {"NS": "native", "NC": "extension", "CC": "extension"}
    ours = ({"axes": (1, 3)},)
    refuses = {"CS": "a super token holds later tokens"}
    paper = "arXiv 2211.11167"
    cost = "O(3^axes n D + (n / s)^2 D)"
    titles = ("Vision Transformer with Super Token Sampling",)
    inputs = {"y": ("keys", "real", "width")}
    rasters = {"NS": (1, 2, 3), "NC": (1, 2), "CC": (1, 2)}
    accepts = {"size": ">= 1", "rounds": ">= 1"}
    checks = ({"size": 2, "rounds": 2}, {"size": 3})
    limits = ({"params": {"size": 1}, "equals": "softmax"},)
    exempt = {"learning:y": "no gradient runs through the shares, as in the authors' code"}

    def __init__(self, slot: Any, *, size: int = 8, rounds: int = 1) -> None:
        super().__init__(slot)
        self.size, self.rounds, self.raster = size, rounds, slot.source_raster or (slot.keys,)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Gather and attend; in NS the queries are gathered too, and read what they belong to."""
        if self.size == 1 or self.slot.pattern.cross:
            return self.step(self.init_state(k, v, key_mask, y=y), q)[0]
        boxes, near, share, seen = self._shares(y, key_mask)
        queries, keys, values = (_gathered(boxes.cut(t), share, near) for t in (q, k, v))
        out = softmax_attention(queries, keys, values, seen)
        return boxes.join(share.to(out.dtype) @ _around(out, near))

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Maybe = None, query_mask: Maybe = None, *, y: Tensor
    ) -> Tensor:
        """Write the share of every token in every super token."""
        real = torch.ones(k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask[0]
        if not real.any():
            return v.new_zeros(*q.shape[:3], v.shape[3])
        if self.size == 1:
            return masked_softmax(q @ k.mT / self.slot.dim**0.5, real) @ v
        box, own = (places(self.raster, k.device)[: len(real)] // self.size)[real].unique(dim=0, return_inverse=True)
        near = ((box[own][:, None] - box).abs() <= 1).all(-1)  # (real tokens, boxes)
        x = y[0, real].detach()
        members = (own[:, None] == torch.arange(len(box), device=k.device)).to(x.dtype)
        share = members
        for _ in range(self.rounds):
            means = (share / share.sum(0)).T @ x
            share = masked_softmax(x @ means.T / self.slot.tokens**0.5, near)
        means = (share / share.sum(0)).T
        k, v = means @ k[:, :, real], means @ v[:, :, real]
        if self.slot.pattern.cross:
            return (q @ k.mT / self.slot.dim**0.5).softmax(-1) @ v
        out = torch.zeros_like(q[..., :1]).expand(-1, -1, -1, v.shape[3]).clone()
        out[:, :, real] = share @ ((means @ q[:, :, real] @ k.mT / self.slot.dim**0.5).softmax(-1) @ v)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count scores and means of each round, what is gathered and given back, and attention of super tokens."""
        dim, size, heads = self.slot.dim, self.slot.values, self.slot.heads
        if self.size == 1:
            return 2.0 * heads * n * m * (dim + size)
        boxes, cross = self._boxes(m), self.slot.pattern.cross
        around = prod(boxes.padded) * 3 ** len(boxes.raster)
        shares = around * self.slot.tokens * (2 * self.rounds - 1)
        gathering = around * heads * (dim + size if cross else 2 * (dim + size))
        return 2.0 * (shares + gathering + heads * (n if cross else boxes.count) * boxes.count * (dim + size))

    def init_state(self, k: Tensor, v: Tensor, key_mask: Maybe = None, *, y: Tensor) -> Any:
        """Gather the source; return the keys and values of super tokens, and which of them there are."""
        if self.size == 1:
            real = torch.ones(len(k), k.shape[2], dtype=torch.bool, device=k.device) if key_mask is None else key_mask
            return k, v, real[:, None, None, :]
        boxes, near, share, seen = self._shares(y, key_mask)
        return *(_gathered(boxes.cut(t), share, near) for t in (k, v)), seen

    def step(
        self, state: Any, q: Tensor, k: Maybe = None, v: Maybe = None, key_mask: Maybe = None, *, y: Maybe = None
    ) -> tuple[Tensor, Any]:
        """Attend to the super tokens (CC)."""
        return softmax_attention(q, *state), state

    def _boxes(self, m: int) -> RasterWindows:
        axes = len(self.raster)
        return RasterWindows(self.raster if axes > 1 else (m,), (self.size,) * axes, (0,) * axes)

    def _shares(self, y: Tensor, key_mask: Maybe) -> tuple[RasterWindows, Tensor, Tensor, Tensor]:
        """Return the boxes, those around each one (boxes, neighbours), the shares a, and which boxes have a token.

        Shares are (batch, 1, boxes, tokens, neighbours). A place beyond the raster has the number of no box.
        """
        boxes = self._boxes(y.shape[1])
        counts = tuple(padded // self.size for padded in boxes.padded)
        place, near = places(counts, y.device), torch.zeros(1, 1, dtype=torch.long, device=y.device)
        inside = torch.ones_like(near, dtype=torch.bool)
        for axis, count in enumerate(counts):
            beside = (place[:, axis, None] + torch.arange(-1, 2, device=y.device)).unsqueeze(1)
            near = (near.unsqueeze(2) * count + beside).flatten(1)
            inside = (inside.unsqueeze(2) & (beside >= 0) & (beside < count)).flatten(1)
        near = near.masked_fill(~inside, boxes.count)
        x = y.detach().unsqueeze(1)
        tokens, real = boxes.cut(x), boxes.cut_mask(key_mask, x)  # (batch, 1, boxes, tokens, width)
        means, exists = window_means(tokens, real).to(x.dtype), real.any(3)
        seen = _around(exists.unsqueeze(3), near).squeeze(4).unsqueeze(3) & real.unsqueeze(4)

        def belonging(means: Tensor) -> Tensor:
            return masked_softmax(tokens @ _around(means, near).mT * self.slot.tokens**-0.5, seen)

        share = belonging(means)
        for _ in range(self.rounds - 1):
            share = belonging(_gathered(tokens, share, near))
        return boxes, near, share, exists.unsqueeze(2)


def _around(t: Tensor, near: Tensor) -> Tensor:
    """Return t (batch, heads, boxes, size) of the boxes around each one: (batch, heads, boxes, neighbours, size)."""
    t = torch.cat([t, torch.zeros_like(t[:, :, :1])], 2)
    return torch.unflatten(t.index_select(2, near.flatten()), 2, near.shape)


def _gathered(t: Tensor, share: Tensor, near: Tensor) -> Tensor:
    """Return the mean of t (batch, heads, boxes, tokens, size) in each super token, (batch, heads, boxes, size)."""
    parts, weights = widened(share.to(t.dtype).mT @ t).flatten(2, 3), widened(share).sum(3).flatten(2).unsqueeze(3)
    empty = parts.new_zeros(*parts.shape[:2], len(near) + 1, parts.shape[3])
    total = empty.index_add(2, near.flatten(), parts)[:, :, :-1]
    weight = empty[:, :1, :, :1].expand(len(weights), -1, -1, -1).index_add(2, near.flatten(), weights)[:, :, :-1]
    return (total / weight.where(weight > 0, 1.0)).to(t.dtype)
