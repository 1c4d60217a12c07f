"""Our `gated_conv` on images against the block of timm's MambaOut without its norm and its shortcut."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry

WIDTH, RASTER = 24, (7, 9)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_layer_equals_theirs_forward_and_backward(timm_models: Callable[[str], Any], share: float) -> None:
    torch.manual_seed(0)
    theirs = timm_models("mambaout").GatedConvBlock(WIDTH, conv_ratio=share, norm_layer=nn.Identity).double()
    slot = Slot(Pattern.NS, heads=3, dim=8, max_len=63, raster=RASTER)
    ours = AttentionLayer(registry.load("mechanism", "gated_conv")(slot, share=share)).double()
    ours.out = nn.Identity()  # theirs has the second linear map alone
    mechanism = ours.mechanism
    mechanism.inner.load_state_dict(theirs.fc1.state_dict())
    mechanism.outer.load_state_dict(theirs.fc2.state_dict())
    mechanism.conv.kernel.data, mechanism.bias.data = theirs.conv.weight.data, theirs.conv.bias.data
    x = torch.randn(2, 63, WIDTH, dtype=torch.float64, requires_grad=True)
    out, expected = ours(x), theirs(x.unflatten(1, RASTER)).flatten(1, 2) - x
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    own = torch.autograd.grad((out * weight).sum(), [x, mechanism.conv.kernel, mechanism.inner.weight])
    of_theirs = torch.autograd.grad((expected * weight).sum(), [x, theirs.conv.weight, theirs.fc1.weight])
    torch.testing.assert_close(own, of_theirs)
