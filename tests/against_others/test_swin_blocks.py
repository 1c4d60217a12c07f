"""Our `swin` and the blocks of timm 1.0.31 (Swin, SwinV2) and of monai 1.6.1 (Swin UNETR's, on volumes)."""

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry


def build(raster: tuple[int, ...], layer: int, **params: Any) -> AttentionLayer:
    slot = Slot(Pattern.NS, heads=2, dim=16, max_len=prod(raster), raster=raster, layer=layer, layers=2)
    return AttentionLayer(registry.load("mechanism", "swin")(slot, window=4, **params)).double().eval()


def copy_projections(ours: AttentionLayer, qkv: nn.Linear, out: nn.Linear, biases: list[Tensor] | None = None) -> None:
    biases = list(qkv.bias.chunk(3)) if biases is None else biases
    for name, weight, bias in zip("qkv", qkv.weight.chunk(3), biases, strict=True):
        ours.projections[name].weight.data, ours.projections[name].bias.data = weight.data, bias.data
    ours.out.load_state_dict(out.state_dict())


def assert_same(ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], n: int, pairs: Any) -> None:
    """Compare outputs, and the gradients of the tokens and of `pairs` of parameters."""
    x = torch.randn(3, n, 32, dtype=torch.float64, requires_grad=True)
    out, expected = ours(x), theirs(x)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    own = torch.autograd.grad((out * weight).sum(), [x, *(pair[0] for pair in pairs)])
    other = torch.autograd.grad((expected * weight).sum(), [x, *(pair[1] for pair in pairs)])
    for gradient, of_theirs in zip(own, other, strict=True):
        torch.testing.assert_close(gradient, of_theirs.T if gradient.shape != of_theirs.shape else of_theirs)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_equals_timm_s_swin(timm_models: Callable[[str], Any], layer: int) -> None:
    torch.manual_seed(0)
    block = timm_models("swin_transformer").SwinTransformerBlock(32, (8, 12), 2, window_size=4, shift_size=2 * layer)
    block, ours = block.double().eval(), build((8, 12), layer)
    table = block.attn.relative_position_bias_table
    nn.init.normal_(table)
    copy_projections(ours, block.attn.qkv, block.attn.proj)
    ours.mechanism.bias.table.data = table.data.T.clone()
    pairs = [(ours.mechanism.bias.table, table), (ours.out.weight, block.attn.proj.weight)]
    assert_same(ours, lambda x: block._attn(x.unflatten(1, (8, 12))).flatten(1, 2), 96, pairs)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_equals_timm_s_swinv2(timm_models: Callable[[str], Any], layer: int) -> None:
    torch.manual_seed(0)
    models = timm_models("swin_transformer_v2")
    block = models.SwinTransformerV2Block(32, (8, 12), 2, window_size=4, shift_size=2 * layer).double().eval()
    ours, theirs = build((8, 12), layer, cosine=True, bias="continuous"), block.attn
    for bias in (theirs.q_bias, theirs.v_bias):
        nn.init.normal_(bias)
    copy_projections(ours, theirs.qkv, theirs.proj, [theirs.q_bias, torch.zeros_like(theirs.q_bias), theirs.v_bias])
    network = ours.mechanism.bias
    network.hidden.load_state_dict(theirs.cpb_mlp[0].state_dict())
    network.out.load_state_dict(theirs.cpb_mlp[2].state_dict())
    theirs.logit_scale.data = torch.tensor([1.0, 2.0], dtype=torch.float64).view(2, 1, 1)
    ours.mechanism.log_scale.data = theirs.logit_scale.data.view(2, 1, 1, 1)
    pairs = [(network.hidden.weight, theirs.cpb_mlp[0].weight), (network.out.weight, theirs.cpb_mlp[2].weight)]
    assert_same(ours, lambda x: block._attn(x.unflatten(1, (8, 12))).flatten(1, 2), 96, pairs)


@pytest.mark.parametrize("raster", [(4, 8, 12), (8, 8, 4)])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_equals_monai_s_swin_unetr(raster: tuple[int, ...], layer: int) -> None:
    peer = pytest.importorskip("monai.networks.nets.swin_unetr")
    torch.manual_seed(0)
    shift = (2 * layer,) * 3
    block = peer.SwinTransformerBlock(32, 2, window_size=(4, 4, 4), shift_size=shift).double().eval()
    block.norm1 = nn.Identity()
    window, shift = peer.get_window_size(raster, (4, 4, 4), shift)
    mask = peer.compute_mask(raster, window, shift, torch.device("cpu")).double()
    ours, table = build(raster, layer), block.attn.relative_position_bias_table
    nn.init.normal_(table)
    copy_projections(ours, block.attn.qkv, block.attn.proj)
    ours.mechanism.bias.table.data = table.data.T.clone()
    pairs = [(ours.mechanism.bias.table, table), (ours.out.weight, block.attn.proj.weight)]
    assert_same(ours, lambda x: block.forward_part1(x.unflatten(1, raster), mask).flatten(1, 3), prod(raster), pairs)
