"""Linformer: what its laws cannot say, because it needs particular weights."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry


def build(pattern: str, m: int, **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=20, source_len=m)
    return registry.load("mechanism", "linformer")(slot, **params).double().eval()


@pytest.mark.parametrize(
    ("params", "message"),
    [({"rank": 0}, "rank=0"), ({"rank": 21}, "20 keys"), ({"rank": 2, "share": "layers"}, "share='layers'")],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("NS", 20, **params)


@pytest.mark.parametrize(("pattern", "m"), [("NS", 20), ("NC", 31), ("CC", 31)])
def test_projected_by_the_identity_it_is_softmax(pattern: str, m: int) -> None:
    mechanism = build(pattern, m, rank=m, share="kv")
    with torch.no_grad():
        mechanism.project_k.copy_(torch.eye(m))
    q, k, v = (torch.randn(2, 2, length, 8, dtype=torch.float64) for length in (20, m, m))
    torch.testing.assert_close(mechanism(q, k, v), (q @ k.mT / 8**0.5).softmax(-1) @ v)
