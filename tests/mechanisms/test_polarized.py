"""Polarized self-attention: what equal tokens are gated by, and the authors' sizes."""

from typing import Any

import pytest
import torch
from cab.mechanisms.polarized import Polarized
from torch import Tensor

from cab import Pattern, Slot


def build(**params: Any) -> Polarized:
    torch.manual_seed(0)
    slot = Slot(Pattern.NS, heads=4, dim=8, max_len=12, raster=(3, 4))
    return Polarized(slot, **params).double().eval()


def gates(mechanism: Polarized, v: Tensor, real: int) -> Tensor:
    mask = (torch.arange(12) < real)[None]
    return mechanism(None, None, v, key_mask=mask)[:, :, :real] / v[:, :, :real]


def test_equal_tokens_share_the_softmax_over_the_places() -> None:
    v = torch.randn(1, 4, 1, 8, dtype=torch.float64).expand(-1, -1, 12, -1)
    channels = v[:, :, 0].flatten(1)
    mechanism = build(equations="code")
    channel_gate = mechanism.up(mechanism.content(channels)).sigmoid().view(1, 4, 1, 8)
    for real in (12, 5):
        place_gate = torch.tensor(1 / real, dtype=torch.float64).sigmoid()
        torch.testing.assert_close(gates(mechanism, v, real), (channel_gate + place_gate).expand(-1, -1, real, -1))
    mechanism = build(form="sequential", equations="code")
    after = mechanism.up(mechanism.content(channels)).sigmoid() * channels
    place_gate = (mechanism.query(after).sum() / 5).sigmoid()
    expected = (after / channels).view(1, 4, 1, 8) * place_gate
    torch.testing.assert_close(gates(mechanism, v, 5), expected.expand(-1, -1, 5, -1))


def test_the_sequential_form_goes_through_an_eighth_of_the_channels() -> None:
    assert build(form="sequential", equations="code").up[0].weight.shape == (4, 16)
    assert build(equations="code").up.weight.shape == (32, 16)


def test_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="parallel, sequential"):
        build(form="both")
