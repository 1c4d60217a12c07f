"""A depth-wise convolution over the neighbours of each token on a raster."""

from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cab.ops.raster_places import places


class RasterConvolution(nn.Module):
    """Convolve each channel of each head for itself, over `width` places along each axis; zeros stand beyond the ends.

    Each place is in the middle of its neighbours, so `width` is odd. A causal convolution is one over a sequence, and
    each place is the last of its neighbours there.
    """

    def __init__(self, heads: int, size: int, width: int, axes: int, causal: bool = False) -> None:
        super().__init__()
        if width < 1 or (width % 2 == 0 and not causal):
            raise ValueError(f"{width} places of a convolution: an odd number is needed")
        self.heads, self.before = heads, width - 1 if causal else width // 2
        self.after = width - 1 - self.before
        self.kernel = nn.Parameter(torch.empty(heads * size, 1, *[width] * axes))
        nn.init.kaiming_uniform_(self.kernel, a=5**0.5)  # as PyTorch's convolutions begin

    def forward(self, x: Tensor, raster: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
        """Convolve x (batch, heads, n, size) on a raster of n places; what `mask` (batch, n) hides counts as zero."""
        if mask is not None:
            x = x.masked_fill(~mask[:, None, :, None], 0.0)
        channels = torch.unflatten(x.transpose(2, 3).flatten(1, 2), 2, raster)
        channels = F.pad(channels, (self.before, self.after) * len(raster))
        convolve = (F.conv1d, F.conv2d, F.conv3d)[len(raster) - 1]
        out = convolve(channels, self.kernel, groups=channels.shape[1]).flatten(2)
        return torch.unflatten(out, 1, (self.heads, -1)).transpose(2, 3)

    def definition(self, x: Tensor, raster: tuple[int, ...], mask: Tensor | None = None) -> Tensor:
        """Return the same as `forward`, as a sum over the neighbours."""
        own, sides = places(raster, x.device), torch.tensor(raster, device=x.device)
        strides = [sides[axis + 1 :].prod() for axis in range(len(raster))]
        width, out = self.kernel.shape[-1], torch.zeros_like(x)
        x = x if mask is None else x * mask[:, None, :, None]
        for number, offset in enumerate(product(range(width), repeat=len(raster))):
            place = own + torch.tensor(offset, device=x.device) - self.before
            inside = ((place >= 0) & (place < sides)).all(1)
            index = sum(place[:, axis] * stride for axis, stride in enumerate(strides)) * inside
            weight = torch.unflatten(self.kernel.flatten(1)[:, number], 0, (self.heads, 1, -1))
            out = out + weight * x[:, :, index] * inside[:, None]
        return out

    def flops(self, raster: tuple[int, ...]) -> float:
        """Count the FLOPs on a raster, of one sample."""
        return 2.0 * prod(raster) * self.kernel.numel()
