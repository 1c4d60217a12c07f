"""Synthesizer: what each kind reads, and what it refuses."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


def build(pattern: str = "NS", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64)
    return registry.load("mechanism", "synthesizer")(slot, **params).double().eval()


@pytest.mark.parametrize(
    ("params", "message"),
    [({"kind": "sparse"}, "dense, random, factorised"), ({"kind": "factorised", "rank": 0}, "rank=0")],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**params)


@pytest.mark.parametrize(
    ("params", "reads"),
    [
        ({"kind": "dense"}, "qv"),
        ({"kind": "random"}, "v"),
        ({"kind": "factorised"}, "v"),
        ({"kind": "random", "mixture": True}, "qkv"),
    ],
)
def test_what_a_kind_does_not_use_is_not_read(params: Any, reads: str) -> None:
    assert build(**params).reads == reads


def test_a_factorised_table_is_a_random_one_of_low_rank() -> None:
    narrow, full = build(kind="factorised", rank=3), build(kind="random")
    with torch.no_grad():
        full.table.copy_(narrow.rows @ narrow.columns)
    v = torch.randn(2, 2, 50, 8, dtype=torch.float64)
    torch.testing.assert_close(narrow(v=v), full(v=v))
