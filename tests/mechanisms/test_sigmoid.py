"""Sigmoid attention: its weights know nothing of each other."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


def build(pattern: str, **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64)
    return registry.load("mechanism", "sigmoid")(slot, **params).double().eval()


def normal(length: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 2, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_bias_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="bias='log'"):
        build("NS", bias="log")


def test_with_a_fixed_bias_two_parts_of_the_source_add_up() -> None:
    mechanism = build("NC", bias=-3.0)
    q, k, v = normal(20, 0), normal(50, 1), normal(50, 2)
    parts = [mechanism(q, k[:, :, part], v[:, :, part]) for part in (slice(13), slice(13, None))]
    torch.testing.assert_close(mechanism(q, k, v), parts[0] + parts[1])


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_the_weights_of_small_scores_add_up_to_about_one(pattern: str) -> None:
    mechanism = build(pattern)
    out = mechanism(1e-3 * normal(60, 0), normal(60, 1), torch.ones_like(normal(60, 2)))
    assert (out[:, :, 10:] - 1).abs().max() < 0.1
