"""Diagonal state space models against their sums over powers, written out."""

import pytest
import torch
from torch import Tensor

from cab.ops.diagonal_ssm import convolution_kernel, fft_convolution, final_state


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("length", [1, 2, 9, 37, 64])
def test_sums_over_powers_equal_their_definition(length: int) -> None:
    exponent = torch.complex(-normal(3, 5).abs(), 3 * normal(3, 5, seed=1))
    weight, u = torch.complex(normal(3, 5, seed=2), normal(3, 5, seed=3)), normal(2, 3, length, seed=4)
    powers = (exponent.unsqueeze(-1) * torch.arange(length)).exp()
    kappa = 2 * (weight.unsqueeze(-1) * powers).sum(1).real
    torch.testing.assert_close(convolution_kernel(weight, exponent, length), kappa)
    sums = torch.einsum("bcl,csl->bcs", u.to(powers.dtype), powers.flip(-1))
    torch.testing.assert_close(final_state(u, exponent), sums)
    whole = torch.zeros(3, length, length, dtype=torch.float64)
    for i in range(length):
        whole[:, i, : i + 1] = kappa[:, : i + 1].flip(-1)
    torch.testing.assert_close(fft_convolution(u, kappa), torch.einsum("cij,bcj->bci", whole, u))
