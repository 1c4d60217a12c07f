"""HiP: what the search down the tree finds."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

HEADS, N = 1, 64


def built(pattern: str, **params: Any) -> Any:
    return registry.load("mechanism", "hip")(Slot(Pattern.of(pattern), HEADS, 1, N, value_dim=N), **params).double()


def found(mechanism: Any, of_key: Tensor) -> Tensor:
    """Return which keys each query attends to, (n, n), where every query scores key j by `of_key[j]`."""
    q, k = torch.ones(1, HEADS, N, 1).double(), of_key.double()[None, None, :, None]
    return mechanism(q, k, torch.eye(N).double().expand(1, HEADS, N, N))[0, 0] > 0  # type: ignore[no-any-return]


@pytest.mark.parametrize("pattern", ["NS", "NC"])
@pytest.mark.parametrize("peak", [0, 21, 40, 63])
def test_a_smooth_hill_of_scores_is_climbed_to_the_keys_around_its_top(pattern: str, peak: int) -> None:
    of_key = -(torch.arange(N) - peak).abs() / N
    attended = found(built(pattern, keys=8, key_block=2, query_block=16), of_key)
    assert (attended.sum(1) == 8).all() and attended[:, peak].all()


def test_a_peak_behind_a_low_first_block_is_missed() -> None:
    of_key = torch.zeros(N)
    of_key[63], of_key[:32] = 9.0, 1.0  # in the half whose first block scores less
    attended = found(built("NS", keys=4, key_block=2), of_key)
    assert not attended[:, 63].any()


def test_a_causal_query_finds_keys_of_its_past_alone_and_as_many_as_it_may() -> None:
    attended = found(built("CS", keys=8, key_block=1), torch.randn(N, generator=torch.Generator().manual_seed(0)))
    assert attended.sum(1).tolist() == [min(i + 1, 8) for i in range(N)] and not attended.triu(1).any()


@pytest.mark.parametrize("params", [{"keys": 5, "key_block": 2}, {"keys": 0}, {"query_block": 0}])
def test_half_a_block_and_no_block_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        built("NS", **params)
