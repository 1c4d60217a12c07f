"""Neighborhoods: the layout of a raster's axes, and the tiles that are cut from it."""

from math import prod

import pytest
import torch

from cab.ops.neighborhoods import axes_of, laid_out, seen_in_tiles


@pytest.mark.parametrize(("sides", "dilation"), [((13,), 1), ((13,), 3), ((100,), 7), ((9, 14), 2), ((3, 20, 5), 4)])
def test_places_with_equal_remainders_lie_beside_each_other(sides: tuple[int, ...], dilation: int) -> None:
    axes = axes_of(sides, 3, dilation, causal=False)
    place = laid_out(torch.arange(prod(sides)), (1,) * len(sides), axes)
    whole = [axis.dilation * axis.length for axis in axes]
    assert len(place.unique()) == prod(sides) and int(place.max()) < prod(whole)
    coordinates = torch.stack(torch.unravel_index(place, whole), 1)
    for number, (axis, own) in enumerate(zip(axes, torch.unravel_index(torch.arange(prod(sides)), sides), strict=True)):
        assert torch.equal(coordinates[:, number] // axis.length, own % axis.dilation)
        assert torch.equal(coordinates[:, number] % axis.length, own // axis.dilation)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("side", "window", "dilation"), [(200, 7, 1), (200, 6, 3), (65, 40, 1), (5, 9, 2)])
def test_a_tile_reads_all_keys_of_its_queries(side: int, window: int, dilation: int, causal: bool) -> None:
    axes = axes_of((side,), window, dilation, causal)
    seen = seen_in_tiles(axes, (1,), torch.tensor([[side]]), window, causal).sum(3).flatten()
    count = seen[laid_out(torch.arange(side), (1,), axes)]
    for place in range(side):
        same = len(range(place % min(dilation, side), side, dilation))
        assert count[place] == (min(window, place // dilation + 1) if causal else min(window, same))
