"""Deformable attention with shared points."""

from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry


def build(pattern: str, raster: Any, source: Any = None, **params: Any) -> Mechanism:
    slot = Slot(
        Pattern.of(pattern),
        heads=4,
        dim=8,
        max_len=prod(raster),
        source_len=prod(source) if source else None,
        raster=raster,
        source_raster=source,
    )
    torch.manual_seed(0)
    return registry.load("mechanism", "dat")(slot, **params).double().eval()


def draw(mechanism: Mechanism) -> tuple[Tensor, Tensor, Tensor]:
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    q, k, v = (torch.randn(2, 4, size, 8, dtype=torch.float64) for size in (n, m, m))
    return q, k, v


def test_a_point_at_every_place_that_does_not_move_is_softmax() -> None:
    mechanism = build("NS", (5, 6), stride=1, conv=3, reach=0.0)
    with torch.no_grad():
        mechanism.table.zero_()
    q, k, v = draw(mechanism)
    torch.testing.assert_close(mechanism(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_points_that_do_not_move_read_the_middle_of_their_places() -> None:
    mechanism = build("NC", (4, 6), (8, 6), stride=2, conv=3, reach=0.0)
    with torch.no_grad():
        mechanism.table.zero_()
    q, *source = draw(mechanism)
    # 2 x 3 points over a source of 8 x 6: each in the middle of 4 x 2 places, so between the inner 2 x 2 of them
    k, v = (t.view(2, 4, 2, 4, 3, 2, 8)[:, :, :, 1:3].mean((3, 5)).flatten(2, 3) for t in source)
    torch.testing.assert_close(mechanism(q, *source), F.scaled_dot_product_attention(q, k, v))


def test_with_a_point_at_every_place_the_table_is_a_bias_of_whole_offsets() -> None:
    mechanism = build("NS", (3, 4), stride=1, conv=3, reach=0.0)
    with torch.no_grad():
        torch.nn.init.normal_(mechanism.table)
    row, column = torch.arange(12) // 4, torch.arange(12) % 4
    bias = mechanism.table[:, row[:, None] - row + 2, column[:, None] - column + 3]
    q, k, v = draw(mechanism)
    torch.testing.assert_close(mechanism(q, k, v), F.scaled_dot_product_attention(q, k, v, attn_mask=bias.detach()))


def test_a_point_moves_no_further_than_the_reach() -> None:
    mechanism = build("NS", (8, 8), stride=2, conv=3, reach=1.5)
    with torch.no_grad():
        mechanism.move.weight.fill_(100.0)
    moved, _ = mechanism._points(draw(mechanism)[0], None)
    resting = torch.cartesian_prod(torch.arange(4), torch.arange(4)) * 2 + 0.5
    distance = (moved - resting).abs()
    assert distance.max() <= 3.0 + 1e-9 and distance.min() > 2.9


def test_each_group_of_heads_has_points_of_its_own() -> None:
    mechanism = build("NS", (8, 8), stride=2, conv=3, groups=2)
    q, k, v = draw(mechanism)
    others = q.clone()
    others[:, 0] *= -1  # moves the points of heads 0 and 1
    same = (mechanism(others, k, v) == mechanism(q, k, v)).all(3).all(2)
    assert same.tolist() == [[False, False, True, True]] * 2


def test_a_hyperparameter_that_is_valid_nowhere_is_refused() -> None:
    for params in ({"stride": 0}, {"groups": 0}, {"reach": -1.0}, {"conv": 4}):
        with pytest.raises(ValueError, match=f"{next(iter(params))}={next(iter(params.values()))}"):
            build("NS", (4, 4), **params)
    with pytest.raises(Unsupported, match="groups=3"):
        build("NS", (4, 4), groups=3)
