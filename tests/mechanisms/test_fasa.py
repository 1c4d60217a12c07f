"""Factorization self-attention: what a query reads of each group of channels."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry


def build(raster: tuple[int, int] | None = (12, 16), pattern: str = "NS", dim: int = 16, **params: Any) -> Mechanism:
    slot = Slot(Pattern.of(pattern), heads=2, dim=dim, max_len=192, raster=raster, source_raster=raster)
    torch.manual_seed(0)
    return registry.load("mechanism", "fasa")(slot, **params).double().eval()


def draw() -> list[Tensor]:
    return [torch.randn(2, 2, 192, 16, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize(("reduction", "sizes"), [(4, [4, 14, 14]), (1, [4, 28])])
def test_the_channels_are_split_by_the_paper_s_shares(reduction: int, sizes: list[int]) -> None:
    assert build(reduction=reduction).sizes == sizes


def test_an_image_is_pooled_as_by_pytorch_s_own_layers() -> None:
    mechanism = build(reduction=4, window=2)
    q, v = draw()
    image = v.transpose(2, 3).reshape(2, 32, 12, 16)
    conv = mechanism.conv.kernel
    boxes = mechanism.norm(mechanism.reduce(image[:, :4]).flatten(2).mT)
    keys, values = mechanism.pair(boxes).chunk(2, 2)
    values = values + F.conv2d(values.mT.unflatten(2, (3, 4)), conv, padding=1, groups=4).flatten(2).mT
    queries = q.transpose(1, 2).flatten(2)
    outs = [F.scaled_dot_product_attention(queries[..., :4], keys, values)]
    local = F.conv2d(image[:, 4:], mechanism.neighbours.kernel, padding=1, groups=28).flatten(2).mT
    local = mechanism.mix(local).mT.unflatten(2, (12, 16))
    own = queries[..., 4:].unflatten(2, (2, 14)).transpose(1, 2)
    for number, (part, dilation) in enumerate(zip(local.split(14, 1), (1, 4), strict=True)):
        stride, group = dilation + 1, mechanism.groups[number]
        padded = F.pad(part, (0, -16 % stride, 0, -12 % stride), value=torch.nan)
        held = F.unfold(padded, 2, dilation=dilation, stride=stride).unflatten(1, (14, 4)).nanmean(3).mT
        keys, values = group.last(group.first(held.unflatten(2, (2, 7)).transpose(1, 2))).chunk(2, 3)
        grid = values.transpose(2, 3).reshape(2, 14, 2, 2)
        near = F.conv2d(grid, group.conv.kernel, padding=1, groups=14).view(2, 2, 7, 4).mT
        query = own[..., 7 * number : 7 * number + 7]
        outs.append(F.scaled_dot_product_attention(query, keys, values + near).transpose(1, 2).flatten(2))
    expected = torch.cat(outs, 2).unflatten(2, (2, 16)).transpose(1, 2)
    torch.testing.assert_close(mechanism(q, v=v), expected)


def test_windows_may_change_places_in_what_the_groups_read() -> None:
    mechanism = build(reduction=1, window=4)
    torch.nn.init.zeros_(mechanism.neighbours.kernel)
    mechanism.neighbours.kernel.data[:, :, 1, 1] = 1  # each place for itself, so that borders do not count
    q, v = draw()
    moved = v.unflatten(2, (3, 4, 4, 4)).flip(2, 4).flatten(2, 5)
    torch.testing.assert_close(mechanism(q, v=v)[..., 4:], mechanism(q, v=moved)[..., 4:])


@pytest.mark.parametrize(("dim", "reduction"), [(8, 4), (12, 1)])
def test_heads_that_cannot_be_split_are_refused(dim: int, reduction: int) -> None:
    with pytest.raises(Unsupported, match=f"dim={dim}"):
        build(dim=dim, reduction=reduction)
    with pytest.raises(ValueError, match="window=0"):
        build(window=0)
