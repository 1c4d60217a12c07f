"""A memory bank: which tokens of the source are read."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot, Unsupported
from cab.plugins import registry

HEADS, DIM, N, M = 2, 4, 5, 19


def built(pattern: str = "NC", **params: Any) -> Any:
    return registry.load("mechanism", "memory_bank")(Slot(Pattern.of(pattern), HEADS, DIM, N, source_len=M), **params)


def read(mechanism: Any, **inputs: Tensor) -> list[int]:
    """Return the places that are read, the same for all queries and heads."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, HEADS, N, DIM, generator=generator), torch.randn(1, HEADS, M, DIM, generator=generator)
    columns = [mechanism(q, k, e.expand(1, HEADS, M, DIM), **inputs) for e in torch.eye(M)[..., None]]
    weights = torch.stack(columns).amax((1, 2, 3, 4))
    return (weights > 0).nonzero()[:, 0].tolist()


def test_recent_reads_the_last_tokens() -> None:
    assert read(built(keep=4)) == [15, 16, 17, 18]


def test_score_reads_the_last_tokens_above_the_threshold() -> None:
    score = torch.zeros(1, M, 1)
    score[0, [1, 4, 7, 11]] = 0.9
    assert read(built(policy="score", keep=3), score=score) == [4, 7, 11]
    assert read(built(policy="score", keep=6), score=score) == [1, 4, 7, 11]


def test_random_reads_other_tokens_at_each_call_in_training_and_the_same_ones_in_evaluation() -> None:
    torch.manual_seed(0)
    mechanism = built(policy="random", keep=6)
    values = torch.eye(M).expand(1, HEADS, M, M)
    wide: Any = registry.load("mechanism", "memory_bank")(
        Slot(Pattern.NC, HEADS, DIM, N, source_len=M, value_dim=M), policy="random", keep=6
    )
    q, k = torch.randn(1, HEADS, N, DIM), torch.randn(1, HEADS, M, DIM)
    draws = {tuple((wide(q, k, values) > 0)[0, 0, 0].tolist()) for _ in range(5)}
    assert len(draws) > 1 and {sum(draw) for draw in draws} == {6}
    mechanism.eval()
    assert read(mechanism) == read(mechanism) and len(read(mechanism)) == 6


def test_a_sequence_that_is_its_own_bank_is_refused() -> None:
    for pattern in ("NS", "CS"):
        with pytest.raises(Unsupported, match="a bank is another sequence"):
            registry.load("mechanism", "memory_bank")(Slot(Pattern.of(pattern), HEADS, DIM, N))
    for params in ({"policy": "best"}, {"keep": 0}):
        with pytest.raises(ValueError, match=next(iter(params))):
            built(**params)
