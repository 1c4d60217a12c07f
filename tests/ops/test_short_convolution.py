"""The short convolution against its sum, whole and in steps with masked tokens."""

import pytest
import torch
from torch import Tensor

from cab.ops.short_convolution import ShortConvolution


def made(width: int) -> tuple[ShortConvolution, Tensor]:
    torch.manual_seed(0)
    return ShortConvolution(2, 3, width).double(), torch.randn(2, 2, 11, 3, dtype=torch.float64)


@pytest.mark.parametrize("width", [1, 4, 20])
def test_it_weighs_the_last_tokens_channel_by_channel(width: int) -> None:
    convolution, x = made(width)
    kernel = convolution.kernel.reshape(2, 3, width)
    expected = torch.zeros_like(x)
    for i in range(11):
        for p in range(width):
            j = i - width + 1 + p
            if j >= 0:
                expected[:, :, i] += kernel[:, :, p] * x[:, :, j]
    torch.testing.assert_close(convolution(x), expected)


@pytest.mark.parametrize("width", [1, 4, 20])
@pytest.mark.parametrize("masked", [False, True])
def test_steps_give_what_the_unmasked_tokens_give_at_once(width: int, masked: bool) -> None:
    convolution, x = made(width)
    mask = torch.rand(2, 11, generator=torch.Generator().manual_seed(1)) < 0.5 if masked else torch.ones(2, 11).bool()
    last, outs = convolution.init_state(x), []
    for start, stop in ((0, 5), (5, 6), (6, 11)):
        part = mask[:, start:stop] if masked else None
        out, last = convolution.step(x[:, :, start:stop], last, part)
        outs.append(out)
    out = torch.cat(outs, 2)
    for row in range(2):
        alone = convolution(x[row : row + 1, :, mask[row]])
        torch.testing.assert_close(out[row, :, mask[row]], alone[0])
