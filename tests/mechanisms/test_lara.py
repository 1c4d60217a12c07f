"""LARA: what one proposal reads, and that its weights are shares."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


def build(pattern: str = "NS", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64)
    return registry.load("mechanism", "lara")(slot, **params).double().eval()


def normal(length: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 2, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("params", "message"),
    [({"landmarks": 0}, "landmarks=0"), ({"landmarks": 65}, "64 queries"), ({"alpha": -1.0}, "alpha=-1.0")],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**params)


@pytest.mark.parametrize("pattern", ["NS", "NC", "CC"])
def test_with_one_proposal_every_query_reads_the_same(pattern: str) -> None:
    out = build(pattern, landmarks=1)(normal(40, 0), normal(40, 1), normal(40, 2))
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))


@pytest.mark.parametrize("pattern", ["NS", "NC", "CC"])
def test_where_all_values_are_one_the_output_is_one(pattern: str) -> None:
    out = build(pattern, landmarks=7)(normal(40, 0), 3 * normal(40, 1), torch.ones_like(normal(40, 2)))
    torch.testing.assert_close(out, torch.ones_like(out))


def test_in_training_the_samples_are_drawn_anew() -> None:
    mechanism = build(landmarks=7).train()
    call = normal(40, 0), normal(40, 1), normal(40, 2)
    assert not torch.equal(mechanism(*call), mechanism(*call))


def test_in_causal_cross_the_keys_alone_bound_the_landmarks() -> None:
    few_queries = Slot(Pattern.CC, heads=2, dim=8, max_len=32, source_len=4096)
    assert registry.load("mechanism", "lara")(few_queries).landmarks == 49
    few_keys = Slot(Pattern.CC, heads=2, dim=8, max_len=4096, source_len=32)
    with pytest.raises(ValueError, match="from 1 to the 32 keys"):
        registry.load("mechanism", "lara")(few_keys)
