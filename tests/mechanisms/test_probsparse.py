"""ProbSparse attention: how many queries attend, and what the sample is."""

from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry


def build(name: str, pattern: str, max_len: int = 1024, dim: int = 8, **params: Any) -> Any:
    torch.manual_seed(0)
    return registry.load("mechanism", name)(
        Slot(Pattern.of(pattern), heads=2, dim=dim, max_len=max_len), **params
    ).eval()


def normal(length: int, seed: int, dim: int = 8) -> Tensor:
    return torch.randn(1, 2, length, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["probsparse", "probsparse_leaky"])
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="factor=0"):
        build(name, "CS", factor=0)


def attending(mechanism: Any, dim: int = 8) -> Tensor:
    """Count the rows of each head that are not the mean of the values that they may see."""
    v = normal(1024, 2, dim)
    means = v.mean(2, keepdim=True)
    if mechanism.slot.pattern is Pattern.CS:
        means = v.cumsum(2) / torch.arange(1, 1025)[:, None]
    out = mechanism(normal(1024, 0, dim), normal(1024, 1, dim), v)
    return ((out - means).abs().amax(3) > 1e-5).sum(2)


@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_factor_times_the_logarithm_of_the_length_attend(pattern: str) -> None:
    assert (attending(build("probsparse", pattern)) == 35).all()


@pytest.mark.parametrize("pattern", ["CS", "CC"])
def test_about_as_many_exceed_the_default_threshold(pattern: str) -> None:
    count = attending(build("probsparse", pattern, dim=64), 64).float()
    assert 15 < count.mean() < 70


def test_the_sample_of_the_causal_form_grows_with_the_logarithm_of_the_position() -> None:
    positions = build("probsparse", "CS", max_len=16384).positions
    for i in (100, 1000, 10000):
        assert 0.75 < (positions <= i).sum() / (5 * log(i)) < 1.25


def test_in_training_the_sample_is_drawn_anew() -> None:
    mechanism = build("probsparse", "NC").train()
    q, k, v = (normal(1024, seed) for seed in range(3))
    assert not torch.equal(mechanism(q, k, v), mechanism(q, k, v))
