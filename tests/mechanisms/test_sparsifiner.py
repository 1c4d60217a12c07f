"""Sparsifiner: how many keys a row keeps, and that its prediction learns which ones matter."""

from math import ceil
from typing import Any

import pytest
import torch
from cab.mechanisms.sparsifiner import Sparsifiner
from torch import Tensor

from cab import Pattern, Slot
from cab.contracts.mechanism import collect_auxiliary_losses
from cab.ops.softmax import softmax_weights

N = 24


def build(pattern: str, **params: Any) -> Sparsifiner:
    torch.manual_seed(0)
    return Sparsifiner(Slot(Pattern.of(pattern), heads=2, dim=8, max_len=N, value_dim=N), **params).double()


def tokens(seed: int, size: int = 8) -> Tensor:
    return torch.randn(1, 2, N, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
@pytest.mark.parametrize("keep", [0.25, 0.28, 0.5])
def test_a_row_keeps_its_share_of_the_keys_that_it_sees(pattern: str, keep: float) -> None:
    values = torch.eye(N, dtype=torch.float64).expand(1, 2, N, N)
    weights = build(pattern, keep=keep).eval()(tokens(0), tokens(1), values)
    seen = range(1, N + 1) if pattern == "CS" else [N] * N
    assert (weights != 0).sum(-1)[0].tolist() == [[ceil(keep * each) for each in seen]] * 2


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_the_prediction_learns_the_map_and_finds_its_largest_weights(pattern: str) -> None:
    mechanism, q, k, v = build(pattern, keep=0.25), 2 * tokens(0), 2 * tokens(1), tokens(2, N)
    seen = torch.ones(N, N, dtype=torch.bool)
    seen = seen.tril() if pattern == "CS" else seen
    whole = softmax_weights(q, k, seen)

    def mass() -> float:
        with torch.no_grad():
            shares = mechanism._shares(q, mechanism._index(k, None), seen)
            chosen = mechanism._choose(mechanism._predicted(shares, N), seen)
        return (whole * chosen).sum(-1).mean().item()

    before, losses = mass(), []
    optimiser = torch.optim.Adam(mechanism.parameters(), 0.05)
    for _ in range(40):
        mechanism(q, k, v)
        loss = collect_auxiliary_losses(mechanism)
        assert loss is not None
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert mass() > before + 0.1


def test_entries_that_do_not_count_for_the_choice_learn_too() -> None:
    mechanism, q, k = build("NS"), tokens(0), tokens(1)
    with torch.no_grad():
        mechanism.up.copy_(mechanism.up.clamp(-0.01, 0.01))  # below 0.02, all of them
    mechanism(q, k, tokens(2, N))
    loss = collect_auxiliary_losses(mechanism)
    assert loss is not None
    loss.backward()
    assert mechanism.up.grad is not None and (mechanism.up.grad != 0).all()
    half = q @ mechanism.of_query.weight.mT, k @ mechanism.of_key.weight.mT
    shares = (half[0] @ (mechanism.down.mT @ half[1]).mT / 2**0.5).softmax(-1)
    error = shares @ mechanism.up - (q @ k.mT / 8**0.5).softmax(-1)
    torch.testing.assert_close(loss, error.square().sum(-1).mean())


def test_no_loss_is_left_where_it_weighs_nothing_or_in_evaluation() -> None:
    for mechanism in (build("NS", reconstruct=0.0), build("NS").eval()):
        mechanism(tokens(0), tokens(1), tokens(2, N))
        assert collect_auxiliary_losses(mechanism) is None
