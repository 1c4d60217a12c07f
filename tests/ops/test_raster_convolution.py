"""A depth-wise convolution over the neighbours on a raster."""

from math import prod

import pytest
import torch

from cab.ops.raster_convolution import RasterConvolution


def draw(raster: tuple[int, ...], width: int, causal: bool = False) -> tuple[RasterConvolution, torch.Tensor]:
    torch.manual_seed(0)
    convolution = RasterConvolution(2, 3, width, len(raster), causal).double()
    return convolution, torch.randn(4, 2, prod(raster), 3, dtype=torch.float64)


@pytest.mark.parametrize("raster", [(7,), (6, 7), (2, 4, 5)])
@pytest.mark.parametrize("width", [1, 3, 5])
def test_it_is_the_sum_over_the_neighbours(raster: tuple[int, ...], width: int) -> None:
    convolution, x = draw(raster, width)
    mask = torch.rand(4, prod(raster)) < 0.7
    for real in (None, mask):
        torch.testing.assert_close(convolution(x, raster, real), convolution.definition(x, raster, real))


def test_a_channel_is_convolved_with_its_own_kernel() -> None:
    convolution, x = draw((6, 7), 3)
    image, kernel = x[:1, 1, :, 2].view(1, 1, 6, 7), convolution.kernel[5:]
    expected = torch.nn.functional.conv2d(image, kernel, padding=1)
    torch.testing.assert_close(convolution(x, (6, 7))[:1, 1, :, 2].view(1, 1, 6, 7), expected)


@pytest.mark.parametrize("width", [1, 4, 5])
def test_a_causal_one_reads_nothing_that_comes_later(width: int) -> None:
    convolution, x = draw((9,), width, causal=True)
    torch.testing.assert_close(convolution(x, (9,)), convolution.definition(x, (9,)))
    torch.testing.assert_close(convolution(x[:, :, :4], (4,)), convolution(x, (9,))[:, :, :4])


def test_an_even_number_of_neighbours_has_no_middle() -> None:
    with pytest.raises(ValueError, match="odd"):
        RasterConvolution(2, 3, 4, 2)
