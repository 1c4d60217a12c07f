"""Super tokens: whom they gather, and what remains of attention where there is one."""

from typing import Any

import pytest
import torch
from cab.mechanisms.super_token import SuperToken
from torch import Tensor

from cab import Pattern, Slot


def build(raster: Any, **params: Any) -> SuperToken:
    n = raster[0] * raster[1]
    return SuperToken(Slot(Pattern.NS, heads=2, dim=4, max_len=n, raster=raster), **params).double().eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_one_super_token_gives_every_token_the_mean_of_the_values() -> None:
    q, k, v = (normal(2, 2, 30, 4, seed=i) for i in range(3))
    out = build((5, 6), size=6)(q, k, v, y=normal(2, 30, 8))
    torch.testing.assert_close(out, v.mean(2, keepdim=True).expand_as(v))


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_token_belongs_to_the_boxes_around_its_own(rounds: int) -> None:
    mechanism = build((7, 8), size=2, rounds=rounds)
    boxes, near, share, _ = mechanism._shares(normal(1, 56, 8), None)
    torch.testing.assert_close(share.sum(4)[share.sum(4) > 0], torch.ones(56, dtype=torch.float64))
    assert near.shape == (16, 9)
    corner, inner = near[0].tolist(), near[5].tolist()
    assert sorted(b for b in corner if b < boxes.count) == [0, 1, 4, 5]
    assert sorted(inner) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert not share[0, 0][near.unsqueeze(1).expand(-1, 4, -1) == boxes.count].any()


def test_tokens_that_look_alike_gather_in_one_super_token() -> None:
    # two kinds of tokens; token 4 is of the first kind, and stands in the box of the second
    x = torch.zeros(1, 8, 8, dtype=torch.float64)
    x[:, :5, 0], x[:, 5:, 1] = 100.0, 100.0
    mechanism = SuperToken(Slot(Pattern.NS, heads=2, dim=4, max_len=8), size=4).double()
    _, near, share, _ = mechanism._shares(x, None)
    second = share[0, 0, 1]
    assert near[1].tolist() == [0, 1, 2]
    torch.testing.assert_close(second[0, 0], torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(second[1:, 1], torch.ones(3, dtype=torch.float64))
