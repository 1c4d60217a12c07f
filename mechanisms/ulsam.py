"""ULSAM, subspace attention (Saini et al., arXiv 2006.15102): one map of places for each group of channels.

The values, in the channels of all heads, are cut into `groups` groups of channels. Of the values v of a group

    u = ReLU(norm(s * v + b)),   a = softmax over the places of ReLU(w . max(u around the place) + c),   y = v + a v

where max is over the 3 places along each axis around a place, channel by channel. The authors have a batch norm, which
mixes samples; here norm is a layer norm over the channels of the group. Nothing can replace their second batch norm, of
the one channel before the last ReLU, so it is left out. They put the module into convolutional networks; here it stands
between the projections of values and output. It is of NS alone: images are the authors', sequences and volumes ours. A
masked place is none.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Unsupported
from cab.ops.channels import channels_of, heads_of
from cab.ops.raster_places import places
from cab.ops.softmax import masked_softmax


class Ulsam(Mechanism):
    """Values gated, in each group of channels, by a map over the places."""

    patterns = {"NS": "native"}
    ours = ({"axes": (1, 3)},)
    refuses = {
        "CS": "the softmax over the places holds all tokens",
        "NC": "it has no queries: each output stands where its value stands",
        "CC": "it has no queries: each output stands where its value stands",
    }
    paper = "arXiv 2006.15102"
    cost = "O(n D)"
    titles = ("ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural Networks",)
    reads = "v"
    rasters = {"NS": (1, 2, 3)}
    accepts = {"groups": ">= 1"}
    checks = ({}, {"groups": 1})
    exempt = {"heads": "the channels of a group may be those of several heads"}

    def __init__(self, slot: Any, *, groups: int = 4) -> None:
        super().__init__(slot)
        channels = slot.heads * slot.values
        if channels % groups or channels == groups:
            raise Unsupported(
                f"ULSAM needs heads value_dim ({channels}) to be a multiple of groups={groups}, not the same"
            )
        self.groups, size = groups, channels // groups
        self.scale, self.shift = nn.Parameter(torch.ones(groups, size)), nn.Parameter(torch.zeros(groups, size))
        self.gain, self.bias = nn.Parameter(torch.ones(groups, size)), nn.Parameter(torch.zeros(groups, size))
        self.weight = nn.Parameter(torch.empty(groups, 1, size).uniform_(-(size**-0.5), size**-0.5))
        self.constant = nn.Parameter(torch.zeros(groups, 1, 1))

    def attend(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Pool the channels around each place, and gate the values."""
        assert key_mask is not None  # always given where q is not read
        values = torch.unflatten(channels_of(v), 2, (self.groups, -1))  # (batch, n, groups, size)
        hidden = F.layer_norm(values * self.scale + self.shift, values.shape[3:]) * self.gain + self.bias
        # a masked place is zero, which is no larger than any other
        hidden = hidden.relu().masked_fill(~key_mask[:, :, None, None], 0.0)
        pooled = self._largest_around(hidden.permute(0, 2, 3, 1).flatten(0, 1)).unflatten(0, (-1, self.groups))
        scores = (self.weight @ pooled + self.constant).relu()  # (batch, groups, 1, n)
        weights = masked_softmax(scores, key_mask[:, None, None, :]).permute(0, 3, 1, 2)
        return heads_of((values + weights * values).flatten(2).to(v.dtype), self.slot.heads)

    def _largest_around(self, t: Tensor) -> Tensor:
        """Return the largest of t (samples, channels, n) in the 3 places along each axis."""
        raster = self.slot.raster or t.shape[2:]
        pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[len(raster) - 1]
        return pool(torch.unflatten(t, 2, raster), 3, 1, 1).flatten(2)

    def reference(
        self, q: None, k: None, v: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Compute each group from the real places that lie around each place."""
        real = torch.ones(v.shape[2], dtype=torch.bool, device=v.device) if key_mask is None else key_mask[0]
        if not real.any():
            return torch.zeros_like(v)
        place = places(self.slot.raster or (v.shape[2],), v.device)[real]
        near = ((place[:, None] - place).abs() <= 1).all(-1)
        groups = []
        for group, values in enumerate(v[0, :, real].transpose(0, 1).flatten(1).chunk(self.groups, 1)):
            u = values * self.scale[group] + self.shift[group]
            u = (u - u.mean(1, keepdim=True)) / (u.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            u = (u * self.gain[group] + self.bias[group]).clamp(min=0)
            largest = u.expand(len(u), -1, -1).masked_fill(~near.unsqueeze(2), -1.0).amax(1)
            score = (largest @ self.weight[group, 0] + self.constant[group, 0]).clamp(min=0)
            groups.append(values * (1 + score.softmax(0).unsqueeze(1)))
        out = torch.zeros_like(v)
        out[0, :, real] = torch.cat(groups, 1).view(int(real.sum()), self.slot.heads, -1).transpose(0, 1)
        return out

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """Count the scores of the places."""
        return 2.0 * n * self.weight.numel()
