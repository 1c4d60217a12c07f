"""Places of tokens on rasters, and of queries among the keys of another raster."""

import torch
from torch import Tensor


def places(raster: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return the coordinates of the tokens of a raster in row-major order: (n, axes)."""
    return torch.cartesian_prod(*(torch.arange(side, device=device) for side in raster)).view(-1, len(raster))


def centres(raster: tuple[int, ...], source_raster: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Return the place among the keys at which each query of a raster stands: (n, axes).

    On an axis with N places of queries and S places of keys, query p stands at key floor(p S / N): at p where both
    rasters are equal.
    """
    query_sides, key_sides = (torch.tensor(sides, device=device) for sides in (raster, source_raster))
    return places(raster, device) * key_sides // query_sides


def aligned_positions(raster: tuple[int, ...], source_raster: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
    """Lay queries out over the raster of the keys, so that windows of keys have windows of queries beside them.

    Returns the position of each query (n,) in a raster that has, on each axis, as many places for each key as there
    are queries at most that stand at it (`centres`), and these numbers, the rates. Some places may stay free.
    """
    rates = tuple(-(-n // m) for n, m in zip(raster, source_raster, strict=True))
    query, centre = places(raster), centres(raster, source_raster)
    position = torch.zeros(len(query), dtype=torch.long)
    for axis, (n, m, rate) in enumerate(zip(raster, source_raster, rates, strict=True)):
        first = -(-centre[:, axis] * n // m)  # the first query that stands at this key
        position = position * m * rate + centre[:, axis] * rate + query[:, axis] - first
    return position, rates
