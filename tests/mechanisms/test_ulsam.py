"""ULSAM against PyTorch's own layers, on a whole image."""

import pytest
import torch
from cab.mechanisms.ulsam import Ulsam
from torch import nn

from cab import Pattern, Slot, Unsupported

CHANNELS = 24


def build(groups: int) -> Ulsam:
    torch.manual_seed(0)
    slot = Slot(Pattern.NS, heads=3, dim=8, max_len=42, raster=(6, 7))
    mechanism = Ulsam(slot, groups=groups).double().eval()
    for p in mechanism.parameters():
        nn.init.normal_(p)
    return mechanism


@pytest.mark.parametrize("groups", [1, 4])
def test_each_group_is_gated_by_convolutions_and_a_maximum_of_three_by_three(groups: int) -> None:
    mechanism, size = build(groups), CHANNELS // groups
    v = torch.randn(2, 3, 42, 8, dtype=torch.float64, requires_grad=True)
    expected = []
    for group, x in enumerate(v.transpose(2, 3).reshape(2, CHANNELS, 6, 7).chunk(groups, 1)):
        depthwise = nn.Conv2d(size, size, 1, groups=size).double()
        point, norm = nn.Conv2d(size, 1, 1).double(), nn.LayerNorm(size).double()
        depthwise.weight.data = mechanism.scale.data[group].view(size, 1, 1, 1)
        depthwise.bias.data = mechanism.shift.data[group]
        norm.weight.data, norm.bias.data = mechanism.gain.data[group], mechanism.bias.data[group]
        point.weight.data = mechanism.weight.data[group].view(1, size, 1, 1)
        point.bias.data = mechanism.constant.data[group].view(1)
        u = norm(depthwise(x).movedim(1, 3)).movedim(3, 1).relu()
        score = point(nn.MaxPool2d(3, 1, 1)(u)).relu()
        expected.append(x + score.flatten(2).softmax(2).view(2, 1, 6, 7) * x)
    of_layers = torch.cat(expected, 1).view(2, 3, 8, 42).transpose(2, 3)
    out = mechanism(None, None, v, key_mask=torch.ones(2, 42, dtype=torch.bool))
    torch.testing.assert_close(out, of_layers)
    weight = torch.randn_like(out)
    gradients = [torch.autograd.grad((t * weight).sum(), v)[0] for t in (out, of_layers)]
    torch.testing.assert_close(*gradients)


def test_groups_must_divide_the_channels_and_hold_two() -> None:
    with pytest.raises(ValueError, match="groups=0"):
        build(0)
    for groups in (5, CHANNELS):
        with pytest.raises(Unsupported, match=rf"\(24\).*groups={groups}"):
            build(groups)
