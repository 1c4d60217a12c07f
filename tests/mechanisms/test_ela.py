"""Efficient local attention: gates of rows and columns."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern, Slot, Unsupported
from cab.plugins import registry

SIZES = {
    "T": {"conv": 5, "share": 1, "groups": 32},
    "B": {"conv": 7, "share": 1, "groups": 16},
    "S": {"conv": 5, "share": 8, "groups": 16},
    "L": {"conv": 7, "share": 8, "groups": 16},
}


def build(heads: int = 4, dim: int = 16, **params: Any) -> Mechanism:
    slot = Slot(Pattern.NS, heads=heads, dim=dim, max_len=63, raster=(7, 9))
    torch.manual_seed(0)
    return registry.load("mechanism", "ela")(slot, **params).double().eval()


def image(mechanism: Mechanism, v: Tensor) -> Tensor:
    return mechanism(None, None, v, key_mask=torch.ones(len(v), 63, dtype=torch.bool))


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_image_is_gated_by_pytorch_s_own_layers(size: str) -> None:
    mechanism = build(**SIZES[size])
    norm = nn.GroupNorm(SIZES[size]["groups"], 64).double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    mechanism.gain.data, mechanism.shift.data = norm.weight.data[:, None], norm.bias.data[:, None]
    v = torch.randn(2, 4, 63, 16, dtype=torch.float64, requires_grad=True)
    x = v.transpose(2, 3).reshape(2, 64, 7, 9)
    of_row, of_column = (norm(mechanism.conv(x.mean(axis))).sigmoid() for axis in (3, 2))
    expected = (x * of_row.unsqueeze(3) * of_column.unsqueeze(2)).view(2, 4, 16, 63).transpose(2, 3)
    out = image(mechanism, v)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    gradients = [torch.autograd.grad((t * weight).sum(), [v, mechanism.conv.weight]) for t in (out, expected)]
    torch.testing.assert_close(*gradients)


def test_a_hidden_row_changes_no_gate_of_the_others_but_through_the_convolution() -> None:
    mechanism = build(conv=1)
    v = torch.randn(1, 4, 63, 16, dtype=torch.float64)
    real = torch.ones(1, 7, 9, dtype=torch.bool)
    real[:, 3] = False
    slot = Slot(Pattern.NS, heads=4, dim=16, max_len=54, raster=(6, 9))
    shorter = registry.load("mechanism", "ela")(slot, conv=1).double()
    shorter.load_state_dict(mechanism.state_dict())
    kept = real.flatten(1)[0]
    expected = shorter(None, None, v[:, :, kept], key_mask=torch.ones(1, 54, dtype=torch.bool))
    torch.testing.assert_close(mechanism(None, None, v, key_mask=real.flatten(1))[:, :, kept], expected)


def test_channels_must_be_divisible_by_groups_and_shares() -> None:
    with pytest.raises(Unsupported, match=r"\(12\).*groups=32"):
        build(heads=2, dim=6)
    with pytest.raises(Unsupported, match="share=5"):
        build(share=5)
    for params, message in (({"conv": 4}, "conv=4"), ({"share": 0}, "share=0"), ({"groups": 0}, "groups=0")):
        with pytest.raises(ValueError, match=message):
            build(**params)
