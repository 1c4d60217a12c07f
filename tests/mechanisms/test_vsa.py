"""Varied-size windows: where a window reads."""

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry

RASTERS: list[tuple[int, ...]] = [(14,), (9, 8), (4, 5, 4)]


def build(name: str, pattern: str, raster: tuple[int, ...], source: Any = None, **params: Any) -> Mechanism:
    source = source or raster
    rasters = {} if len(raster) == 1 else {"raster": raster, "source_raster": source}
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=prod(raster), source_len=prod(source), **rasters)
    torch.manual_seed(0)
    return registry.load("mechanism", name)(slot, window=4, **params).double().eval()


def draw(mechanism: Mechanism) -> list[Tensor]:
    n, m = mechanism.slot.max_len, mechanism.slot.keys
    return [torch.randn(2, 2, size, 8, dtype=torch.float64) for size in (n, m, m)]


@pytest.mark.parametrize("raster", RASTERS)
@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_at_first_it_is_swin(pattern: str, raster: tuple[int, ...]) -> None:
    ours, swin = build("vsa", pattern, raster), build("swin", pattern, raster)
    ours.bias.table.data.copy_(swin.bias.table)
    arguments = draw(ours)
    x = torch.randn(2, ours.slot.max_len, 16, dtype=torch.float64)
    real = torch.rand(2, ours.slot.keys) < 0.7
    for key_mask in (None, real if len(raster) > 1 else None):
        torch.testing.assert_close(ours(*arguments, key_mask=key_mask, x=x), swin(*arguments, key_mask=key_mask))


def test_offsets_and_scales_are_the_window_s_own() -> None:
    mechanism = build("vsa", "NS", (8, 12), bias=False)
    bias = mechanism.move.bias.data.view(2, 2, 2)  # heads, scale and offset, axes
    bias[1, 0], bias[1, 1] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, -0.5])
    where = mechanism._locations(torch.randn(1, 96, 16, dtype=torch.float64), 96, None)  # type: ignore[operator]
    assert where.shape == (1, 2, 6, 16, 2)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    own = torch.stack([rows.flatten(), columns.flatten()], 1).double() + torch.tensor([4, 8])  # of the last window
    torch.testing.assert_close(where[0, 0, 5], own)
    middle = torch.tensor([5.5, 9.5]).double()
    moved = middle + (own - middle) * torch.tensor([1, 2]) + torch.tensor([1 * 7 / 4, -0.5 * 11 / 6])
    torch.testing.assert_close(where[0, 1, 5], moved)


def test_another_window_s_tokens_move_nothing() -> None:
    mechanism = build("vsa", "NS", (8, 12))
    torch.nn.init.normal_(mechanism.move.weight)
    arguments, x = draw(mechanism), torch.randn(2, 96, 16, dtype=torch.float64)
    changed = x.clone()
    changed.view(2, 8, 12, 16)[:, 4:, 8:] += 1
    same = (mechanism(*arguments, x=x) == mechanism(*arguments, x=changed)).all(3).view(2, 2, 8, 12)
    assert same[:, :, :4].all() and same[:, :, 4:, :8].all() and not same[:, :, 4:, 8:].all()


def test_a_window_of_no_place_is_refused() -> None:
    with pytest.raises(ValueError, match="window=0"):
        registry.load("mechanism", "vsa")(Slot(Pattern.NS, heads=2, dim=8, max_len=9), window=0)
