"""Rounding to 8 and 4 bits against the numbers that the formats have."""

import pytest
import torch
from torch import Tensor

from cab.ops.rounding import LARGEST, rounded


def numbers(form: str) -> Tensor:
    """Return all numbers of a format that are not negative, in order."""
    if form != "fp8":
        return torch.arange(LARGEST[form] + 1.0, dtype=torch.float64)
    # a fraction of three bits after a leading one, exponents from -6 to 8 without the last number, which is NaN;
    # below them the leading bit is zero
    normal = [(1 + fraction / 8) * 2.0**exponent for exponent in range(-6, 9) for fraction in range(8)][:-1]
    return torch.tensor([fraction / 8 * 2.0**-6 for fraction in range(8)] + normal, dtype=torch.float64)


@pytest.mark.parametrize("form", LARGEST)
def test_the_largest_entry_becomes_the_largest_number_and_the_others_the_nearest_ones(form: str) -> None:
    t = torch.randn(2, 3, 21, 5, generator=torch.Generator().manual_seed(0)).double()
    out, table = rounded(t, form, 8), numbers(form)
    assert table[-1] == LARGEST[form]
    for start in (0, 8, 16):
        block, block_out = t[:, :, start : start + 8], out[:, :, start : start + 8]
        scale = block.abs().amax((2, 3), keepdim=True) / LARGEST[form]
        nearest = table[((block / scale).abs().unsqueeze(-1) - table).abs().argmin(-1)]
        torch.testing.assert_close(block_out / scale, nearest * block.sign())


def test_integers_round_halves_away_from_zero() -> None:
    t = torch.tensor([7.0, 0.5, -0.5, 2.5, -2.5, 0.4]).double().reshape(1, 1, 1, 6)
    assert rounded(t, "int4").flatten().tolist() == [7, 1, -1, 3, -3, 0]


@pytest.mark.parametrize("form", [*LARGEST, "exact"])
def test_gradients_pass_unchanged_and_zeros_stay(form: str) -> None:
    t = torch.randn(1, 1, 4, 3, generator=torch.Generator().manual_seed(0))
    t[:, :, 2] = 0.0
    t.requires_grad_()
    out = rounded(t, form)
    assert not out[:, :, 2].any()
    weight = torch.randn(out.shape)
    assert torch.equal(torch.autograd.grad((out * weight).sum(), t)[0], weight)
