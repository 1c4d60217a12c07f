"""Our `polarized` with the paper's equations against fightingcv-attention, forward and backward."""

import pytest
import torch
from torch import nn

from cab import Pattern, Slot
from cab.plugins import registry

peer = pytest.importorskip("fightingcv_attention.attention.PolarizedSelfAttention")
HEADS, SIZE, RASTER = 4, 8, (5, 6)


@pytest.mark.parametrize("form", ["parallel", "sequential"])
def test_an_image_is_gated_as_theirs(form: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(peer, f"{form.title()}PolarizedSelfAttention")(HEADS * SIZE).double()
    slot = Slot(Pattern.NS, heads=HEADS, dim=SIZE, max_len=30, raster=RASTER)
    ours = registry.load("mechanism", "polarized")(slot, form=form, equations="paper").double()
    pairs = {"ch_wq": ours.score, "ch_wv": ours.content, "sp_wq": ours.query, "sp_wv": ours.value}
    for name, linear in pairs.items():
        convolution = getattr(theirs, name)
        nn.init.zeros_(convolution.bias)  # ours have none
        linear.weight.data = convolution.weight.data.flatten(1)
    up, norm = ours.up
    up.weight.data, up.bias.data = theirs.ch_wz.weight.data.flatten(1), theirs.ch_wz.bias.data
    nn.init.normal_(theirs.ln.weight), nn.init.normal_(theirs.ln.bias)
    norm.load_state_dict(theirs.ln.state_dict())
    v = torch.randn(2, HEADS, 30, SIZE, dtype=torch.float64, requires_grad=True)
    out = ours(None, None, v, key_mask=torch.ones(2, 30, dtype=torch.bool))
    image = v.transpose(2, 3).reshape(2, HEADS * SIZE, *RASTER)
    expected = theirs(image).view(2, HEADS, SIZE, 30).transpose(2, 3)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    own = torch.autograd.grad((out * weight).sum(), [v, ours.content.weight, ours.value.weight, up.weight])
    leaves = [v, theirs.ch_wv.weight, theirs.sp_wv.weight, theirs.ch_wz.weight]
    of_v, *of_maps = torch.autograd.grad((expected * weight).sum(), leaves)
    torch.testing.assert_close(own, (of_v, *(t.flatten(1) for t in of_maps)))
