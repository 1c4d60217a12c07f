"""Multi-query self-attention: which queries a long query is the mean of."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

HEADS, DIM, N = 2, 4, 9


def built(pattern: str, **params: Any) -> Any:
    return registry.load("mechanism", "mqsa")(Slot(Pattern.of(pattern), HEADS, DIM, N, rotary=100.0), **params)


@pytest.mark.parametrize("pattern", Pattern.__members__)
def test_a_long_query_forgets_what_is_older_than_its_window(pattern: str) -> None:
    q, k, v = torch.randn(3, 1, HEADS, N, DIM, generator=torch.Generator().manual_seed(0))
    mechanism = built(pattern, queries=3, short=0.0)
    moved = q.index_fill(2, torch.tensor([2]), 5.0)
    changed = (mechanism(moved, k, v) - mechanism(q, k, v)).abs().amax((0, 1, 3)) > 1e-6
    assert changed.tolist() == [False, False, True, True, True, False, False, False, False]


@pytest.mark.parametrize("params", [{"queries": 0}, {"short": 1.5}, {"short": -0.1}])
def test_no_query_and_a_share_that_is_none_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        built("NS", **params)
