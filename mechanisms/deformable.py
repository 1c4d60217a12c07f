"""Deformable attention (Zhu et al., arXiv 2010.04159): each query samples the values at places that it predicts.

In head h, of query i with the token x_i and the reference point c_i, over `levels` l and `points` p (equation 3):

    y_i = sum_lp a_ihlp v_l(c_i + o_ihlp),    a_ih = softmax over l and p of A x_i,    o_i = O x_i + b

There are no keys. v_l is interpolated linearly between its places, and zero beyond them. The authors take the levels
from a pyramid of features; here level l is the mean of the values over boxes of 2^l places along each axis, and an
offset is in boxes of its level. At first O and A are zero, and the offsets b lie on a ring around c_i.

- The reference point is the query's own place; on a source of other sides, the same share of each axis. Where the
  source has another number of axes than the queries, it is sigmoid(R x_i), as in the authors' decoder.
- NS, NC and CC are the authors': a row reads its own query alone. They have images. Of NS
  sequences and volumes are ours, of NC and CC a source that is a sequence.
- CS (ours, on sequences): a sample beyond the last box that is complete at i is taken at that box.
- `depth` (DFA3D, Li et al., arXiv 2307.12972): a point lies in depth, too. Each place that it reads counts as much as
  the depth distribution of that place, the input `depth` of 16 bins, says at the point (interpolated linearly).

A masked token has the value zero on level 0, and is in no mean of the other levels.
"""

from collections.abc import Iterator
from math import pi, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Pattern
from cab.ops.interpolation import corners, weighted_rows
from cab.ops.precision import at_least_float32, widened
from cab.ops.raster_places import places
from cab.ops.raster_windows import RasterWindows, window_means

BINS = 16  # of a depth distribution


class Deformable(Mechanism):
    """Every query sums the values at a few places around its own, which it chooses itself."""

    patterns = {"NS": "native", "CS": "extension", "NC": "native", "CC": "native"}
    ours = ({"axes": (1, 3), "patterns": ["NS"]}, {"source_axes": 1, "patterns": ["NC", "CC"]}, {"depth": True})
    paper = "arXiv 2010.04159"
    titles = ("DFA3D: 3D Deformable Attention For 2D-to-3D Feature Lifting",)
    parity = "transformers (Deformable DETR)"
    cost = "O((n p + m) d)"
    reads = "v"
    inputs = {"x": ("queries", "real", "width"), "depth": ("keys", "real", 16, {"depth": True})}
    rasters = {"NS": (1, 2, 3), "NC": (1, 2)}
    source_rasters = {"NC": (1, 2), "CC": (1, 2)}
    accepts = {"levels": ">= 1", "points": ">= 1"}
    checks = ({"levels": 3, "points": 2}, {"levels": 1, "points": 3}, {"levels": 2, "points": 1, "depth": True})

    def __init__(self, slot: Any, *, levels: int = 4, points: int = 4, depth: bool = False) -> None:
        super().__init__(slot)
        self.raster, self.source = slot.sides, slot.source_sides
        axes = len(self.source) + depth
        predicted = int(depth) if len(self.raster) == len(self.source) else axes
        self.samples = (slot.heads, levels, points)  # of a query
        self.offset = nn.Linear(slot.tokens, prod(self.samples) * axes)
        self.weight = nn.Linear(slot.tokens, prod(self.samples))
        self.point = nn.Linear(slot.tokens, predicted) if predicted else None
        for parameter in (self.offset.weight, self.weight.weight, self.weight.bias):
            nn.init.zeros_(parameter)
        directions = F.pad(_directions(slot.heads, len(self.source)), (0, int(depth)))
        steps = torch.arange(1, points + 1).unsqueeze(1)
        with torch.no_grad():
            self.offset.bias.copy_((steps * directions[:, None, None]).expand(*self.samples, axes).flatten())

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Tensor, query_mask: Tensor, x: Tensor, depth: Any = None
    ) -> Tensor:
        """Find the places around all samples of all levels, and sum over them at once."""
        raster, first = self.slot.source_raster or (v.shape[2],), 0
        rows, indices, weights = [], [], []
        for level, (location, weight) in enumerate(self._sampled(x)):
            index, share = corners(location[..., : len(raster)], tuple(-(-side // 2**level) for side in raster))
            weight = share * weight.unsqueeze(-1)
            if depth is not None:
                boxes = _box_means(depth.unsqueeze(1), raster, 2**level, key_mask)
                weight = weight * _depth_scores(boxes, index, location[..., len(raster) :])
            rows.append(_box_means(v, raster, 2**level, key_mask))
            indices.append(index.flatten(3) + first)
            weights.append(weight.flatten(3))
            first += rows[-1].shape[2]
        return weighted_rows(torch.cat(rows, 2), torch.cat(indices, 3), torch.cat(weights, 3))

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Any = None, query_mask: Any = None, *, x: Tensor, depth: Any = None
    ) -> Tensor:
        """Weigh every box of every level by its distance from a sample: 1 - |distance| on each axis, at least zero."""
        raster, out = self.slot.source_raster or (v.shape[2],), torch.zeros_like(v[:, :, :1])
        real = torch.ones_like(v[0, 0, :, 0]) if key_mask is None else key_mask[0].to(v.dtype)
        for level, (location, weight) in enumerate(self._sampled(x)):
            box = places(tuple(-(-side // 2**level) for side in raster), v.device)
            member = (places(raster, v.device)[: len(real)] // 2**level == box.unsqueeze(1)).all(2) * real
            mean = member / member.sum(1, keepdim=True).clamp(min=1)
            near = (1 - (location.unsqueeze(4)[..., : len(raster)] - box).abs()).clamp(min=0).prod(5)
            if depth is not None:
                at_bin = (1 - (location[..., len(raster) :] - torch.arange(BINS, device=v.device)).abs()).clamp(min=0)
                near = near * (at_bin @ (mean @ depth[0]).to(near.dtype).T)
            out = out + torch.einsum("bhip,bhipc,bhcd->bhid", weight, near, (mean @ v).to(near.dtype))
        return out.to(v.dtype)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Offsets, weights and predicted points. What is gathered and summed is not counted as a product."""
        outputs = sum(linear.out_features for linear in (self.offset, self.weight, self.point) if linear is not None)
        return 2.0 * n * self.slot.tokens * outputs

    def _sampled(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each level where samples lie, in its boxes (batch, heads, n, points, axes), and their weights."""
        n, wide, axes = x.shape[1], at_least_float32(x), len(self.source)
        logits = torch.unflatten(self.weight(x), 2, (self.samples[0], -1)).transpose(1, 2)
        weight = torch.unflatten(logits.softmax(3, dtype=wide), 3, self.samples[1:])
        offset = torch.unflatten(self.offset(x), 2, (*self.samples, -1)).transpose(1, 2).to(wide)
        centre = self._centres(x)[:, None, :, None]
        for level in range(self.samples[1]):
            location = torch.cat([centre[..., :axes] / 2**level, centre[..., axes:]], -1) - 0.5 + offset[:, :, :, level]
            if self.slot.pattern is Pattern.CS:
                complete = (torch.arange(1, n + 1, device=x.device) // 2**level - 1)[:, None, None]
                location = torch.cat([location[..., :1].minimum(complete), location[..., 1:]], -1)
            yield location, weight[:, :, :, level]

    def _centres(self, x: Tensor) -> Tensor:
        """Return the reference points: (batch, n, axes), each from 0 to the side of the source, or of the bins."""
        coordinates: list[Tensor] = []
        if len(self.raster) == len(self.source):
            own = places(self.raster, x.device)[: x.shape[1]].to(at_least_float32(x)) + 0.5
            shares = zip(own.unbind(1), self.raster, self.source, strict=True)
            coordinates = [(place * (m / n)).expand(len(x), -1) for place, n, m in shares]
        if self.point is not None:  # of all axes, or of the depth alone
            sides = [*self.source, BINS][len(coordinates) :]
            coordinates += [
                share * side for share, side in zip(widened(self.point(x)).sigmoid().unbind(2), sides, strict=False)
            ]
        return torch.stack(coordinates, 2)


def _directions(heads: int, axes: int) -> Tensor:
    """Return where the offsets of each head point at first: around a square, or to both sides (heads, axes)."""
    two_sides = 1 - 2 * (torch.arange(heads) % 2)
    angle = 2 * pi * torch.arange(heads) / heads
    ring = torch.stack([angle.sin(), angle.cos()], 1)
    ring = ring / ring.abs().amax(1, keepdim=True)
    return ring if axes == 2 else torch.cat([two_sides[:, None], ring], 1)[:, :axes]


def _box_means(t: Tensor, raster: tuple[int, ...], side: int, mask: Tensor | None) -> Tensor:
    """Return the means of the unmasked tokens of t (batch, heads, n, size) in boxes of a raster."""
    boxes = RasterWindows(raster, (side,) * len(raster), (0,) * len(raster))
    return window_means(boxes.cut(t), boxes.cut_mask(mask, t)).to(t.dtype)


def _depth_scores(depth: Tensor, index: Tensor, location: Tensor) -> Tensor:
    """Return the depth distribution (batch, 1, boxes, bins) of the boxes at `index`, at a location between bins."""
    bins, share = corners(location, depth.shape[3:])
    flat = index.unsqueeze(5) * depth.shape[3] + bins.unsqueeze(4)
    scores = depth.flatten(1).gather(1, flat.flatten(1)).view(flat.shape)
    return (scores * share.unsqueeze(4)).sum(5)
