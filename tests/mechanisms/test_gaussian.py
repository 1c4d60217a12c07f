"""Gaussian adaptive attention: what its weights sum to, and that tokens reach each other over the tokens' axis."""

from typing import Any

import pytest
import torch
from cab.mechanisms.gaussian import Gaussian

from cab import Pattern, Slot


def build(pattern: str = "NS", **params: Any) -> Gaussian:
    torch.manual_seed(0)
    mechanism = Gaussian(Slot(Pattern.of(pattern), heads=2, dim=3, max_len=40), **params).double().eval()
    mechanism.offset.data.normal_()
    return mechanism


def test_equal_tokens_share_the_weight() -> None:
    mask = torch.tensor([[True] * 8 + [False] * 2])
    v = torch.ones(1, 2, 10, 3, dtype=torch.float64)
    torch.testing.assert_close(build()(None, None, v, key_mask=mask)[:, :, :8], v[:, :, :8] / 8)
    torch.testing.assert_close(build(axis="features")(None, None, v, key_mask=mask)[:, :, :8], v[:, :, :8] / 3)


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_over_the_tokens_a_value_changes_the_weights_of_others(pattern: str) -> None:
    v, mask = torch.randn(1, 2, 10, 3, dtype=torch.float64), torch.ones(1, 10, dtype=torch.bool)
    mechanism = build(pattern)
    changed = mechanism(None, None, v.index_fill(2, torch.tensor([4]), 3.0), key_mask=mask)
    differs = (changed - mechanism(None, None, v, key_mask=mask)).abs().amax((0, 1, 3)) > 1e-6
    assert differs.tolist() == [pattern == "NS"] * 4 + [True] * 6


def test_weights_sum_to_one_where_densities_underflow() -> None:
    mechanism = build().float()
    mechanism.width.data.fill_(1e-3)
    v, mask = torch.randn(1, 2, 40, 3), torch.ones(1, 40, dtype=torch.bool)
    shifted = mechanism(None, None, v, key_mask=mask) / v
    torch.testing.assert_close(shifted.sum(2), torch.ones(1, 2, 3))


def test_the_running_variance_of_far_values_keeps_its_digits() -> None:
    v, mask = torch.randn(1, 2, 40, 3, dtype=torch.float64), torch.ones(1, 40, dtype=torch.bool)
    mechanism = build("CS")
    far, near = (mechanism(None, None, v + shift, key_mask=mask) / (v + shift) for shift in (1e6, 0.0))
    torch.testing.assert_close(far, near, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("params", [{"axis": "time"}, {"gaussians": 0}])
def test_what_no_slot_can_have_is_refused(params: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        build(**params)
