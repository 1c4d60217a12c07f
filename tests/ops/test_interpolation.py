"""Values between the places of a raster."""

from math import prod

import pytest
import torch
import torch.nn.functional as F

from cab.ops.interpolation import corners, weighted_rows
from cab.ops.raster_places import places

RASTERS = [(7,), (6, 7), (2, 4, 5)]


@pytest.mark.parametrize("raster", [(6, 7), (2, 4, 5)])
def test_it_is_pytorch_s_sampling_of_images_and_volumes_forward_and_backward(raster: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    sides = torch.tensor(raster, dtype=torch.float64)
    location = (torch.rand(2, 3, 50, len(raster), dtype=torch.float64) * 1.6 - 0.3) * sides - 0.5  # some lie beyond
    location.requires_grad_()
    t = torch.randn(2, 3, prod(raster), 4, dtype=torch.float64, requires_grad=True)
    out = weighted_rows(t, *corners(location, raster))
    grid = ((location + 0.5) / sides * 2 - 1).flip(-1).view(6, 50, *[1] * (len(raster) - 1), len(raster))
    images = t.transpose(2, 3).reshape(6, 4, *raster)
    expected = F.grid_sample(images, grid, align_corners=False).view(2, 3, 4, 50).transpose(2, 3)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    gradients = [torch.autograd.grad((o * weight).sum(), [t, location]) for o in (out, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("raster", RASTERS)
def test_at_a_place_it_is_the_value_of_that_place(raster: tuple[int, ...]) -> None:
    t = torch.randn(1, 2, prod(raster), 3)
    location = places(raster).float().expand(1, 2, -1, -1)
    assert torch.equal(weighted_rows(t, *corners(location, raster)), t)


@pytest.mark.parametrize("raster", RASTERS)
def test_weights_sum_to_one_inside_and_fade_to_zero_within_a_place_beyond(raster: tuple[int, ...]) -> None:
    inside = torch.rand(100, len(raster)) * (torch.tensor(raster) - 1)
    assert corners(inside, raster)[1].sum(-1).sub(1).abs().max() < 1e-6
    beyond = inside.clone()
    for location, expected in ((-0.25, 0.75), (-1.0, 0.0), (raster[-1] - 0.5, 0.5), (raster[-1] + 1e9, 0.0)):
        beyond[:, -1] = location
        assert corners(beyond, raster)[1].sum(-1).sub(expected).abs().max() < 1e-6
