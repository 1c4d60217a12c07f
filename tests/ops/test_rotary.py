"""Rotary positions against rotations of complex numbers, at any positions and over some of the channels."""

import pytest
import torch

from cab.attention.layer import rotated
from cab.ops.rotary import rotate


def tokens(size: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, 5, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels", [2, 4, 8])
def test_pairs_turn_as_complex_numbers_and_the_other_channels_stay(channels: int) -> None:
    t, half = tokens(), channels // 2
    position = torch.tensor([[0, 3, 1, 1, 1000], [7, 2, 2, 5, 0]])
    out = rotate(t, position, 100.0, channels)
    angle = position[:, None, :, None] * 100.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turned = torch.complex(t[..., :half], t[..., half:channels]) * torch.exp(1j * angle)
    torch.testing.assert_close(out, torch.cat([turned.real, turned.imag, t[..., channels:]], -1))


@pytest.mark.parametrize("size", [8, 7])
def test_over_all_channels_in_order_it_is_what_the_layer_applies(size: int) -> None:
    t = tokens(size).float()
    assert torch.equal(rotate(t, torch.arange(5), 10000.0), rotated(t, 10000.0))


def test_without_a_base_nothing_turns() -> None:
    t = tokens()
    assert rotate(t, torch.arange(5), None) is t
