"""Online k-means over directions: centroids of unit length that queries and keys are compared with."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import at_least_float32, full_precision


def directions(heads: int, clusters: int, dim: int) -> Tensor:
    """Draw centroids (heads, clusters, dim) of length 1."""
    return F.normalize(torch.randn(heads, clusters, dim), dim=-1)


def similar(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the similarity of tokens (batch, heads, n, dim) to centroids: (batch, heads, n, clusters).

    In float32 at least, so that rounding moves few tokens; without gradient, since it only selects.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    with full_precision(x.device.type):
        near: Tensor = F.normalize(x.detach().to(wide), dim=-1) @ centroids.to(wide).transpose(-1, -2)
    return near


def strayed(x: Tensor, centroids: Tensor, cluster: Tensor, mask: Tensor | None) -> Tensor:
    """Return how far the directions of real tokens are from their centroids: the mean square, with its gradient."""
    of = centroids.to(x.dtype).expand(x.shape[0], -1, -1, -1).gather(2, _wide(cluster, x.shape[3]))
    squares = (F.normalize(x.to(at_least_float32(x)), dim=-1) - of).square().mean(-1)
    if mask is None:
        return squares.mean()
    real = mask[:, None, :].expand_as(squares)
    return squares.masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)


@torch.no_grad()
def moved(centroids: Tensor, x: Tensor, cluster: Tensor, mask: Tensor | None, decay: float) -> None:
    """Move the centroids towards the directions of their tokens, as an exponential average over calls."""
    unit = F.normalize(x.detach().to(centroids.dtype), dim=-1)
    if mask is not None:
        unit = unit.masked_fill(~mask[:, None, :, None], 0.0)
    total = centroids.new_zeros(x.shape[0], *centroids.shape)
    total = total.scatter_add(2, _wide(cluster, x.shape[3]), unit).sum(0)
    has_some = total.abs().amax(-1, keepdim=True) > 0
    centroids.lerp_(torch.where(has_some, F.normalize(total, dim=-1), centroids), 1 - decay)


def _wide(index: Tensor, size: int) -> Tensor:
    return index.unsqueeze(3).expand(-1, -1, -1, size)
