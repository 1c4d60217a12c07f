"""Efficient local attention (Xu and Wan, arXiv 2403.01123): a gate for each row of an image and one for each column.

Let z be the means of the values v over each row of the image, or over each column, in each of heads value_dim channels:

    a = sigmoid(norm(conv(z))),   y = v * a_row * a_column,

where conv runs along z over `conv` places, in groups of `share` channels, and norm is a group norm over z and the
channels of each of `groups` groups. Rows and columns have the same conv and norm. The authors' sizes (conv, share,
groups) are T: 5, 1, 32; B: 7, 1, 16; S: 5, 8, 16; L: 7, 8, 16. They put it into convolutional networks, between
convolutions; in an attention layer it stands between the projections of values and output.

It is of images in NS alone. A masked token is in no mean; a row or column without tokens is zero for conv and is not in
the statistics of norm.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab import Mechanism, Unsupported
from cab.ops.precision import at_least_float32, widened

EPS = 1e-5  # beside the variance in the norm


class Ela(Mechanism):
    """Values gated by what stands in their row and in their column."""

    patterns = {"NS": "native"}
    refuses = {
        "CS": "the gate of a row holds all of the row, and its norm holds all rows",
        "NC": "it has no queries: each output stands where its value stands",
        "CC": "it has no queries: each output stands where its value stands",
    }
    paper = "arXiv 2403.01123"
    titles = ("ELA: Efficient Local Attention for Deep Convolutional Neural Networks",)
    cost = "O(n d)"
    reads = "v"
    rasters = (2,)
    accepts = {"conv": "odd, >= 1", "share": ">= 1", "groups": ">= 1"}
    checks = ({}, {"conv": 7, "groups": 16}, {"share": 8, "groups": 4})

    def __init__(self, slot: Any, *, conv: int = 5, share: int = 1, groups: int = 32) -> None:
        super().__init__(slot)
        channels = slot.heads * slot.values
        if channels % share or channels % groups:
            raise Unsupported(f"ELA needs heads value_dim ({channels}) divisible by share={share} and groups={groups}")
        self.groups = groups
        self.conv = nn.Conv1d(channels, channels, conv, padding=conv // 2, groups=channels // share, bias=False)
        self.gain, self.shift = nn.Parameter(torch.ones(channels, 1)), nn.Parameter(torch.zeros(channels, 1))

    def attend(self, q: None, k: None, v: Tensor, key_mask: Tensor, query_mask: Tensor) -> Tensor:
        """Average rows and columns, and gate the values with both."""
        real = torch.unflatten(key_mask, 1, self.slot.raster).unsqueeze(1)  # (batch, 1, rows, columns)
        values = torch.unflatten(v.transpose(2, 3).flatten(1, 2), 2, self.slot.raster)
        of_row, of_column = (self._gate(values, real, axis).unsqueeze(axis) for axis in (3, 2))
        out = (values * of_row * of_column).to(v.dtype)
        return torch.unflatten(out.flatten(2), 1, (self.slot.heads, -1)).transpose(2, 3)

    def _gate(self, values: Tensor, real: Tensor, axis: int) -> Tensor:
        """Return the gates (batch, channels, places) of what an axis of the values is averaged to."""
        total = values.masked_fill(~real, 0.0).sum(axis, dtype=at_least_float32(values))
        mean = (total / real.sum(axis).clamp(min=1)).to(values.dtype)
        counts = real.any(axis).unsqueeze(2)  # (batch, 1, 1, places)
        z = widened(torch.unflatten(self.conv(mean), 1, (self.groups, -1)))
        number = (counts.sum(3, keepdim=True) * z.shape[2]).clamp(min=1)
        z = z - z.masked_fill(~counts, 0.0).sum((2, 3), keepdim=True) / number
        variance = z.masked_fill(~counts, 0.0).square().sum((2, 3), keepdim=True) / number
        normed = (z * (variance + EPS).rsqrt()).flatten(1, 2)
        return (normed * self.gain + self.shift).sigmoid()

    def reference(self, q: None, k: None, v: Tensor, key_mask: Tensor, query_mask: Tensor) -> Tensor:
        """Compute the gates channel group by channel group, from the rows and columns that hold a token."""
        if not key_mask.any():
            return torch.zeros_like(v)
        real = key_mask[0].view(self.slot.raster)
        out = values = v[0].transpose(1, 2).reshape(-1, *self.slot.raster)
        for axis in (2, 1):
            counts = real.any(axis - 1)
            mean = (values * real).sum(axis) / real.sum(axis - 1).clamp(min=1)
            z = F.conv1d(mean, self.conv.weight, padding=self.conv.padding, groups=self.conv.groups)
            groups = ((group, group[:, counts]) for group in z.chunk(self.groups))
            normed = [(group - seen.mean()) / (seen.var(correction=0) + EPS).sqrt() for group, seen in groups]
            out = out * (torch.cat(normed) * self.gain + self.shift).sigmoid().unsqueeze(axis)
        return out.flatten(1).unflatten(0, (self.slot.heads, -1)).transpose(1, 2).unsqueeze(0)

    def flops(self, n: int, m: int, backend: str = "eager") -> float:
        """The convolution along rows and along columns."""
        return 2.0 * sum(self.slot.raster) * self.conv.weight.numel()
