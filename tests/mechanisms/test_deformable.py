"""Deformable attention: where queries sample."""

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry


def build(pattern: str, raster: Any = None, source: Any = None, heads: int = 4, **params: Any) -> Mechanism:
    slot = Slot(
        Pattern.of(pattern),
        heads=heads,
        dim=4,
        max_len=prod(raster) if raster else 12,
        source_len=prod(source) if source else None,
        raster=raster,
        source_raster=source,
    )
    torch.manual_seed(0)
    return registry.load("mechanism", "deformable")(slot, **params).double().eval()


def draw(mechanism: Mechanism) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    slot = mechanism.slot
    v = torch.randn(2, slot.heads, slot.keys, 4, dtype=torch.float64)
    x = torch.randn(2, slot.max_len, slot.tokens, dtype=torch.float64)
    masks = {"key_mask": torch.ones(2, slot.keys, dtype=torch.bool)}
    if slot.pattern.cross:
        masks["query_mask"] = torch.ones(2, slot.max_len, dtype=torch.bool)
    return v, x, masks


def without_offsets(mechanism: Mechanism) -> Mechanism:
    with torch.no_grad():
        mechanism.offset.bias.zero_()
    return mechanism


@pytest.mark.parametrize("raster", [None, (6, 7), (2, 4, 5)])
def test_without_offsets_a_query_reads_its_own_value(raster: Any) -> None:
    mechanism = without_offsets(build("NS", raster, levels=1))
    v, x, masks = draw(mechanism)
    torch.testing.assert_close(mechanism(v=v, x=x, **masks), v)


@pytest.mark.parametrize("levels", [2, 3])
def test_a_level_is_the_mean_over_boxes(levels: int) -> None:
    mechanism = without_offsets(build("NC", (2, 3), (8, 12), levels=levels, points=1))
    with torch.no_grad():  # the last level alone has weight
        mechanism.weight.bias.view(4, levels)[:, :-1] = -1000.0
    v, x, masks = draw(mechanism)
    # a query stands in the middle of a box of 4 x 4, which is where four boxes of 2 x 2 meet
    expected = v.view(2, 4, 2, 4, 3, 4, 4).mean((3, 5)).flatten(2, 3)
    torch.testing.assert_close(mechanism(v=v, x=x, **masks), expected)


def test_the_heads_of_a_new_mechanism_look_around_a_square_further_out_with_each_point() -> None:
    mechanism = build("NS", (9, 9), heads=8, levels=1, points=2)
    offsets = mechanism.offset.bias.detach().view(8, 2, 2)
    expected = [[0, 1], [1, 1], [1, 0], [1, -1], [0, -1], [-1, -1], [-1, 0], [-1, 1]]
    torch.testing.assert_close(offsets[:, 0], torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, 1], 2 * offsets[:, 0])
    on_a_line = build("NS", levels=1, points=1).offset.bias.detach()
    assert on_a_line.tolist() == [1, -1, 1, -1]


def test_where_the_source_has_other_axes_a_query_predicts_the_point_that_it_reads() -> None:
    mechanism = without_offsets(build("NC", None, (5, 8), levels=1))
    with torch.no_grad():
        mechanism.point.weight.zero_()
        mechanism.point.bias.copy_(torch.logit(torch.tensor([3.5 / 5, 6.5 / 8])))  # the middle of row 3, column 6
    v, x, masks = draw(mechanism)
    out = mechanism(v=v, x=x, **masks)
    torch.testing.assert_close(out, v[:, :, [3 * 8 + 6]].expand_as(out))


def test_in_causal_self_no_sample_lies_beyond_the_last_complete_box() -> None:
    mechanism = build("CS", levels=2, points=1)
    with torch.no_grad():
        mechanism.offset.bias.fill_(100.0)  # as far ahead as it can
        mechanism.weight.bias.view(4, 2)[:, 0] = -1000.0  # level 1: boxes of two
    v, x, masks = draw(mechanism)
    out = mechanism(v=v, x=x, **masks)
    boxes = v.unflatten(2, (6, 2)).mean(3)
    expected = torch.cat([torch.zeros_like(boxes[:, :, :1]), boxes], 2).repeat_interleave(2, 2)[:, :, 1:-1]
    torch.testing.assert_close(out, expected)


def test_depth_weighs_each_place_by_its_distribution_at_the_point() -> None:
    mechanism = without_offsets(build("NS", (3, 4), levels=1, points=1, depth=True))
    with torch.no_grad():
        mechanism.point.weight.zero_()
        mechanism.point.bias.fill_(torch.logit(torch.tensor(6.75 / 16)))  # between bins 6 and 7
    v, x, masks = draw(mechanism)
    depth = torch.rand(2, 12, 16, dtype=torch.float64)
    score = 0.75 * depth[..., 6] + 0.25 * depth[..., 7]
    torch.testing.assert_close(mechanism(v=v, x=x, depth=depth, **masks), v * score[:, None, :, None])


@torch.no_grad()
def test_depth_is_trilinear_sampling_of_values_times_depths() -> None:
    """DFA3D's definition, computed by PyTorch's sampler of volumes."""
    mechanism = build("NS", (3, 4), levels=1, points=2, depth=True)
    for linear in (mechanism.offset, mechanism.weight, mechanism.point):
        linear.weight.normal_(std=0.3)
    v, x, masks = draw(mechanism)
    depth = torch.rand(2, 12, 16, dtype=torch.float64)
    volume = torch.einsum("bhnc,bnz->bhcnz", v, depth).unflatten(3, (3, 4)).flatten(0, 1)  # (·, channels, 3, 4, 16)
    ((location, weight),) = mechanism._sampled(x)  # rows, columns and bins
    sides = torch.tensor([3, 4, 16])
    grid = (2 * location / (sides - 1) - 1).flip(4).flatten(0, 1).unsqueeze(1)
    sampled = torch.nn.functional.grid_sample(volume, grid, align_corners=True).unflatten(0, (2, 4))[:, :, :, 0]
    expected = torch.einsum("bhcnp,bhnp->bhnc", sampled, weight)
    torch.testing.assert_close(mechanism(v=v, x=x, depth=depth, **masks), expected)


def test_a_hyperparameter_that_is_valid_nowhere_is_refused() -> None:
    for params in ({"levels": 0}, {"points": 0}):
        with pytest.raises(ValueError, match="=0"):
            build("NS", **params)
