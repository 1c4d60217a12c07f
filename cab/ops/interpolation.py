"""Values between the places of a raster: linear interpolation on one axis, bilinear on two, trilinear on three."""

import torch
import torch.nn.functional as F
from torch import Tensor


def corners(location: Tensor, raster: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the tokens around each location on a raster, and their weights: (..., 2^axes) each.

    location (..., axes) is in places: 0 is the middle of the first one. What lies beyond the raster has a weight of
    zero, so the weights around a location inside sum to 1.
    """
    low = location.floor()
    share = location - low
    index, weight = torch.zeros_like(low[..., :1], dtype=torch.long), torch.ones_like(low[..., :1])
    for axis, side in enumerate(raster):
        place = torch.stack([low[..., axis], low[..., axis] + 1], -1)
        part = torch.stack([1 - share[..., axis], share[..., axis]], -1)
        part = part.masked_fill((place < 0) | (place >= side), 0.0)
        place = place.clamp(0, side - 1).long()
        index = (index.unsqueeze(-1) * side + place.unsqueeze(-2)).flatten(-2)
        weight = (weight.unsqueeze(-1) * part.unsqueeze(-2)).flatten(-2)
    return index, weight


def weighted_rows(t: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Return sum over s of weight_is t_(index_is) for each query i: (batch, heads, queries, size).

    t is (batch, heads, n, size), index and weight are (batch, heads, queries, samples). No sampled row is copied.
    """
    batch, heads, n, size = t.shape
    start = torch.arange(batch * heads, device=t.device).view(batch, heads, 1, 1) * n
    bags, weights = (index + start).flatten(0, 2), weight.to(t.dtype).flatten(0, 2)
    out = F.embedding_bag(bags, t.reshape(-1, size), per_sample_weights=weights, mode="sum")
    return out.view(batch, heads, -1, size)
