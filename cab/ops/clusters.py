"""Online spherical k-means of queries and keys (Routing Transformer, arXiv 2003.05997, section 4).

Centroids have unit length. A token belongs to the centroid with the largest dot product.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import at_least_float32, full_precision


def random_centroids(heads: int, clusters: int, dim: int) -> Tensor:
    """Draw centroids (heads, clusters, dim) of length 1."""
    return F.normalize(torch.randn(heads, clusters, dim), dim=-1)


def cosine_similarity(x: Tensor, centroids: Tensor) -> Tensor:
    """Return the cosines of tokens (batch, heads, n, dim) with the centroids: (batch, heads, n, clusters).

    They are in float32 at least, so that rounding moves few tokens to another cluster. They have no gradient, since
    they only select.
    """
    wide = at_least_float32(x)
    with full_precision(x.device.type):
        cosines: Tensor = F.normalize(x.detach().to(wide), dim=-1) @ centroids.to(wide).transpose(-1, -2)
    return cosines


def commitment_loss(x: Tensor, centroids: Tensor, cluster: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean square between normalised unmasked tokens and the centroids of their clusters.

    x is (batch, heads, n, dim), cluster is (batch, heads, n), mask is (batch, n). The gradient flows to x.
    """
    assigned = centroids.to(x.dtype).expand(x.shape[0], -1, -1, -1).gather(2, _expand(cluster, x.shape[3]))
    squares = (F.normalize(x.to(at_least_float32(x)), dim=-1) - assigned).square().mean(-1)
    if mask is None:
        return squares.mean()
    real = mask[:, None, :].expand_as(squares)
    return squares.masked_fill(~real, 0.0).sum() / real.sum().clamp(min=1)


@torch.no_grad()
def update_centroids(centroids: Tensor, x: Tensor, cluster: Tensor, mask: Tensor | None, decay: float) -> None:
    """Move the centroids in-place towards the mean directions of their unmasked tokens: an exponential moving average.

    Shapes as for `commitment_loss`. The centroid of a cluster without tokens stays.
    """
    unit = F.normalize(x.detach().to(centroids.dtype), dim=-1)
    if mask is not None:
        unit = unit.masked_fill(~mask[:, None, :, None], 0.0)
    total = centroids.new_zeros(x.shape[0], *centroids.shape)
    total = total.scatter_add(2, _expand(cluster, x.shape[3]), unit).sum(0)
    not_empty = total.abs().amax(-1, keepdim=True) > 0
    centroids.lerp_(torch.where(not_empty, F.normalize(total, dim=-1), centroids), 1 - decay)


def _expand(index: Tensor, size: int) -> Tensor:
    return index.unsqueeze(3).expand(-1, -1, -1, size)
