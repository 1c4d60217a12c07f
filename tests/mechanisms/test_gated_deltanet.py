"""Gated DeltaNet: how it begins, and what its options change."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry


def built(pattern: str = "CS", **params: Any) -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64, width=12)
    return registry.load("mechanism", "gated_deltanet")(slot, **params).double()


def call(n: int = 40) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    heads = {name: torch.randn(1, 2, n, 8, generator=generator).double() for name in "qkv"}
    return heads | {name: torch.randn(1, n, 12, generator=generator).double() for name in "xy"}


def test_at_the_beginning_a_head_keeps_more_than_a_fifth_of_its_state_a_token() -> None:
    mechanism = built()
    _, decay = mechanism._gates(torch.zeros(1, 1, 12).double(), None)
    assert decay.exp().min() > torch.tensor(-16 * 0.1).exp() > 0.2 and decay.max() < -1 * 0.001 * 0.99


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC"])
def test_the_chunk_changes_the_cost_only(pattern: str) -> None:
    whole = built(pattern, chunk=64)(**call())
    for chunk in (1, 7, 16):
        torch.testing.assert_close(built(pattern, chunk=chunk)(**call()), whole)


def test_states_flip_signs_only_with_negative_eigenvalues() -> None:
    for negative, most in ((False, 1.0), (True, 2.0)):
        with torch.no_grad():
            beta, _ = built(negative=negative)._gates(1e3 * torch.randn(1, 500, 12).double(), None)
        assert beta.amax().item() == pytest.approx(most) and beta.amin().item() == pytest.approx(0.0)


def test_without_decay_nothing_is_learned_about_it() -> None:
    names = dict(built(decay=False).named_parameters())
    assert not {"of_decay.weight", "log_rate", "shift"} & set(names)


@pytest.mark.parametrize("params", [{"conv": 0}, {"chunk": 0}])
def test_nothing_shorter_than_a_token_is_taken(params: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"(conv|chunk)=0: .*>= 1"):
        built(**params)
