"""Deformable attention with shared points, DAT (Xia et al., arXiv 2201.00520): all queries read the same moved points.

Points lie `stride` places apart along each axis. In each of `groups` groups of heads they move by what a small network
of the queries says (section 3.2), at most `reach` times their distance:

    p_j = r_j + reach tanh(W GELU(norm(conv(q)))_j)
    y_i = sum_j softmax_j(q_i k(p_j) / sqrt(dim) + B(c_i - p_j)) v(p_j)

r_j is the middle of the places of point j, conv is depth-wise over `conv` places, norm is a layer norm over a group's
channels, and groups share the network. Keys, values and the learned table B of offsets are interpolated linearly; keys
and values are zero beyond the raster. The paper interpolates tokens and projects them: with
one group the same within the raster. With more, its projections mix the channels of all groups, each taken at its own
points.

- NS: native on images; sequences and volumes are ours. NC (ours): the points of the queries' raster lie at the same
  share of each axis of the source, and so does the place c_i of a query.
- CS and CC are refused: all queries move the points.

A masked token counts as zero in conv and where points are interpolated. A point whose first place holds no query is
left out.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Unsupported
from cab.ops.interpolation import corners, weighted_rows
from cab.ops.precision import at_least_float32
from cab.ops.raster_places import places
from cab.ops.softmax import masked_softmax


class Dat(Mechanism):
    """Queries weigh a few points of the source, which all queries move together."""

    patterns = {"NS": "native", "NC": "extension"}
    ours = ({"axes": (1, 3)},)
    refuses = {
        "CS": "all queries move the points that each of them reads",
        "CC": "all queries move the points that each of them reads",
    }
    paper = "arXiv 2201.00520"
    cost = "O(n m d / s)"
    rasters = {"NS": (1, 2, 3), "NC": (1, 2)}
    checks = ({"stride": 2, "conv": 3}, {"stride": 3, "conv": 5, "groups": 2, "reach": 2.0})
    exempt = {"heads": "the heads of a group have the same points, which the queries of all of them move"}

    def __init__(self, slot: Any, *, stride: int = 4, conv: int = 7, groups: int = 1, reach: float = 1.0) -> None:
        super().__init__(slot)
        if min(stride, groups) < 1 or reach < 0:
            raise ValueError(f"stride={stride}, groups={groups}, reach={reach}: at least 1, 1 and 0 are needed")
        if conv < 1 or conv % 2 == 0:
            raise ValueError(f"conv={conv}: an odd number of places is needed")
        if slot.heads % groups:
            raise Unsupported(f"groups={groups} does not divide the {slot.heads} heads")
        self.raster, self.source = slot.raster or (slot.max_len,), slot.source_raster or (slot.keys,)
        self.stride, self.groups, self.reach = stride, groups, reach
        axes, channels = len(self.raster), slot.heads // groups * slot.dim
        conv_of_axes = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.conv = conv_of_axes(channels, channels, conv, stride, conv // 2, groups=channels)
        self.norm, self.move = nn.LayerNorm(channels), nn.Linear(channels, axes, bias=False)
        self.table = nn.Parameter(torch.empty(slot.heads, *(2 * side - 1 for side in self.source)))
        nn.init.trunc_normal_(self.table, std=0.01)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Interpolate keys, values and biases at the points."""
        points, seen = self._points(q, query_mask)
        if key_mask is not None:
            k, v = (t.masked_fill(~key_mask[:, None, :, None], 0.0) for t in (k, v))
        raster, together = self.source if len(self.source) > 1 else (k.shape[2],), self.slot.heads // self.groups
        index, weight = (t.repeat_interleave(together, 1) for t in corners(points, raster))
        k, v = weighted_rows(k, index, weight), weighted_rows(v, index, weight)
        # all heads of a group look the same offsets up
        table = torch.unflatten(self.table.flatten(1), 0, (self.groups, -1)).transpose(1, 2).expand(len(q), -1, -1, -1)
        offset = self._offsets(points, q.shape[2])
        bias = weighted_rows(table, *corners(offset.flatten(2, 3), tuple(self.table.shape[1:])))
        bias = torch.unflatten(bias, 2, offset.shape[2:4]).movedim(4, 2).flatten(1, 2)
        scores = (q * self.slot.dim**-0.5) @ k.transpose(-1, -2)
        return masked_softmax(scores.to(bias.dtype) + bias, seen).to(v.dtype) @ v

    def reference(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Weigh every place and every entry of the table by its distance from what is looked up."""
        points, seen = self._points(q, query_mask)
        points = points.repeat_interleave(self.slot.heads // self.groups, 1)
        key = places(self.source, q.device)[: k.shape[2]]
        near = (1 - (points.unsqueeze(3) - key).abs()).clamp(min=0).prod(4)  # (1, heads, points, keys)
        if key_mask is not None:
            near = near * key_mask[:, None, None, :]
        rows = []
        for offset in self._offsets(points, q.shape[2]).unbind(2):
            # the weight of an entry is the product over the axes
            along = zip(offset.unbind(3), self.table.shape[1:], strict=True)
            first, *others = (_nearness(place, side) for place, side in along)
            bias = torch.einsum("bhjs,hs...->bhj...", first.to(self.table.dtype), self.table)
            for near_entry in others:
                bias = torch.einsum("bhjs,bhjs...->bhj...", near_entry.to(bias.dtype), bias)
            rows.append(bias)
        k, v = near.to(k.dtype) @ k, near.to(v.dtype) @ v
        scores = torch.einsum("bhid,bhjd->bhij", q, k) / self.slot.dim**0.5
        return masked_softmax(scores + torch.stack(rows, 2), seen) @ v

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The network, scores and sums. What is interpolated is gathered, and not counted as a product."""
        raster = self.raster if len(self.raster) > 1 else (n,)
        points = prod(-(-side // self.stride) for side in raster)
        network = self.groups * (self.conv.weight.numel() + self.move.weight.numel())
        return 2.0 * points * (network + self.slot.heads * n * (self.slot.dim + self.slot.values))

    def _points(self, q: Tensor, query_mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the points in places of the source (batch, groups, points, axes), and which of them count."""
        raster, seen = self.raster if len(self.raster) > 1 else (q.shape[2],), None
        if query_mask is not None:
            q = q.masked_fill(~query_mask[:, None, :, None], 0.0)
            first = torch.unflatten(query_mask, 1, raster)[:, *[slice(None, None, self.stride)] * len(raster)]
            seen = first.flatten(1)[:, None, None, :]
        channels = q.transpose(2, 3).reshape(len(q) * self.groups, -1, *raster)
        hidden = F.gelu(self.norm(self.conv(channels).flatten(2).transpose(1, 2)))
        wide = at_least_float32(q)
        own = places(tuple(-(-side // self.stride) for side in raster), q.device).to(wide) + 0.5
        moved = own + self.reach * self.move(hidden).to(wide).tanh()
        scale = [self.stride * m / n for n, m in zip(self.raster, self.source, strict=True)]
        points = torch.stack([part * share for part, share in zip(moved.unbind(2), scale, strict=True)], 2) - 0.5
        return torch.unflatten(points, 0, (-1, self.groups)), seen

    def _offsets(self, points: Tensor, n: int) -> Tensor:
        """Return where the table holds the offset of each query and point: (batch, groups, n, points, axes)."""
        own = places(self.raster, points.device)[:n].to(points.dtype) + 0.5
        sides = zip(own.unbind(1), self.raster, self.source, strict=True)
        centre = torch.stack([place * (m / n) - 0.5 + m - 1 for place, n, m in sides], 1)
        return centre.unsqueeze(1) - points.unsqueeze(2)


def _nearness(places: Tensor, side: int) -> Tensor:
    """Return one less the distance of each of `side` entries along an axis, at least zero: (..., places, side)."""
    return (1 - (places.unsqueeze(-1) - torch.arange(side, device=places.device)).abs()).clamp(min=0)
