"""Our `swin` and transformers 5.23.0: Swin's layer, shifted and not, and SwinV2's cosine attention of a window."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry


def build(raster: tuple[int, int], layer: int, **params: Any) -> AttentionLayer:
    slot = Slot(Pattern.NS, heads=2, dim=16, max_len=raster[0] * raster[1], raster=raster, layer=layer, layers=2)
    mechanism = registry.load("mechanism", "swin")(slot, window=4, **params)
    return AttentionLayer(mechanism).double().eval()


def copy_weights(ours: AttentionLayer, theirs: dict[str, nn.Module]) -> None:
    for name, module in theirs.items():
        target = ours.out if name == "out" else ours.projections[name]
        state = {"bias": torch.zeros_like(target.bias), **module.state_dict()}
        target.load_state_dict(state)


def assert_same(ours: Tensor, theirs: Tensor, our_leaves: list[Tensor], their_leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    our_gradients = torch.autograd.grad((ours * weight).sum(), our_leaves)
    their_gradients = torch.autograd.grad((theirs * weight).sum(), their_leaves)
    torch.testing.assert_close(our_gradients, their_gradients)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_equals_swin_s_forward_and_backward(layer: int) -> None:
    peer = pytest.importorskip("transformers.models.swin.modeling_swin")
    config = peer.SwinConfig(window_size=4, attn_implementation="eager")
    torch.manual_seed(0)
    block = peer.SwinLayer(config, 32, (8, 12), 2, shift_size=2 * layer).eval()
    # without norms and feed-forward it gives 2 (x + attention(x))
    block.layernorm_before, block.layernorm_after, block.mlp = nn.Identity(), nn.Identity(), nn.Identity()
    theirs, ours = block.attention, build((8, 12), layer).float()  # their softmax is in float32 always
    copy_weights(ours, {"q": theirs.q_proj, "k": theirs.k_proj, "v": theirs.v_proj, "out": theirs.o_proj})
    table = ours.mechanism.bias.table
    nn.init.normal_(table)
    del theirs.relative_position_bias.relative_position_bias_table
    theirs.relative_position_bias.relative_position_bias_table = table.T  # one leaf for both
    x = torch.randn(3, 96, 32, requires_grad=True)
    expected = block(x, (8, 12))[0] / 2 - x
    our_leaves, their_leaves = ([x, table, weight] for weight in (ours.projections["q"].weight, theirs.q_proj.weight))
    assert_same(ours(x), expected, our_leaves, their_leaves)


def test_one_window_equals_swinv2_s_cosine_attention_forward_and_backward() -> None:
    peer = pytest.importorskip("transformers.models.swinv2.modeling_swinv2")
    torch.manual_seed(0)
    theirs = peer.Swinv2SelfAttention(peer.Swinv2Config(), 32, 2, 4).double().eval()
    ours = build((4, 4), 0, cosine=True, bias="continuous")
    copy_weights(ours, {"q": theirs.query, "k": theirs.key, "v": theirs.value})
    ours.out = nn.Identity()  # theirs has the output projection outside
    bias, network = ours.mechanism.bias, theirs.continuous_position_bias_mlp
    bias.hidden.load_state_dict(network[0].state_dict())
    bias.out.load_state_dict(network[2].state_dict())
    x = torch.randn(3, 16, 32, dtype=torch.float64, requires_grad=True)
    our_leaves = [x, ours.projections["k"].weight, bias.hidden.weight, bias.out.weight]
    their_leaves = [x, theirs.key.weight, network[0].weight, network[2].weight]
    assert_same(ours(x), theirs(x)[0], our_leaves, their_leaves)
