"""Our `gpsa` on images against GPSA of timm's ConViT, forward and backward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry

HEADS, WIDTH, SIDE = 5, 40, 6


def both(convit: Any) -> tuple[nn.Module, AttentionLayer]:
    torch.manual_seed(0)
    theirs = convit.GPSA(WIDTH, HEADS, qkv_bias=True, locality_strength=0.7).double()
    theirs.local_init()
    slot = Slot(Pattern.NS, heads=HEADS, dim=WIDTH // HEADS, max_len=SIDE**2, raster=(SIDE, SIDE))
    ours = AttentionLayer(registry.load("mechanism", "gpsa")(slot, strength=0.7)).double()
    return theirs, ours


def test_the_heads_begin_with_their_offsets(timm_models: Callable[[str], Any]) -> None:
    theirs, ours = both(timm_models("convit"))
    # their offsets are (column, row), ours (row, column)
    torch.testing.assert_close(ours.mechanism.weight[:4], theirs.pos_proj.weight[:4, [1, 0, 2]])


def test_a_layer_equals_theirs_forward_and_backward(timm_models: Callable[[str], Any]) -> None:
    theirs, ours = both(timm_models("convit"))
    nn.init.normal_(theirs.gating_param)
    for name, projection in ours.projections.items():
        source, rows = (theirs.v, slice(None)) if name == "v" else (theirs.qk, slice(0, WIDTH))
        rows = slice(WIDTH, None) if name == "k" else rows
        projection.weight.data, projection.bias.data = source.weight.data[rows], source.bias.data[rows]
    ours.out.load_state_dict(theirs.proj.state_dict())
    ours.mechanism.weight.data = theirs.pos_proj.weight.data[:, [1, 0, 2]]
    ours.mechanism.gate.data = theirs.gating_param.data.view(-1, 1, 1)
    x = torch.randn(3, SIDE**2, WIDTH, dtype=torch.float64, requires_grad=True)
    out, expected = ours(x), theirs(x)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    own = torch.autograd.grad((out * weight).sum(), [x, ours.mechanism.gate, ours.mechanism.weight])
    of_x, of_gate, of_weight = torch.autograd.grad(
        (expected * weight).sum(), [x, theirs.gating_param, theirs.pos_proj.weight]
    )
    torch.testing.assert_close(own, (of_x, of_gate.view(-1, 1, 1), of_weight[:, [1, 0, 2]]))
