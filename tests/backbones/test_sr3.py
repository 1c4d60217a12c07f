"""SR3's U-Net: its slots, what a pixel reads, and its published size."""

from typing import Any

import pytest
import torch
from torch import nn

from cab import Mechanism
from cab.attention.build import LayerBuilder
from cab.backbones.sr3 import RowsAndColumns, UNet
from cab.plugins import registry

SIZES: dict[str, Any] = {"side": 16, "image_channels": 1, "heads": 2, "dim": 4, "levels": 3, "blocks": 2, "groups": 4}
SIZES |= {"least_side": 8, "most_side": 8}


def build(mechanism: str = "softmax", **changes: Any) -> tuple[Any, LayerBuilder]:
    layers = LayerBuilder(registry.load("mechanism", mechanism), {}, "NS")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(layers, **{**SIZES, **changes}).double().eval(), layers


def tensors(side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 2, side, side, dtype=torch.float64), torch.tensor([0.9, 0.2], dtype=torch.float64)


class OnImages(Mechanism):
    patterns = {"NS": "native"}
    rasters = (2,)

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        return v


def test_the_slots_are_rasters_of_their_level_with_its_channels() -> None:
    layers = LayerBuilder(OnImages, {}, "NS")
    UNet(layers, **SIZES)
    slots = [m.slot for m in layers.built]
    # two on the way down, the middle, three on the way up
    upper, lower = ((8, 8), 64, 2, 8), ((4, 4), 16, 2, 16)
    assert [(s.raster, s.max_len, s.heads, s.dim) for s in slots] == [upper] * 2 + [lower] + [upper] * 3
    assert [(slot.layer, slot.layers) for slot in slots] == [(i, 6) for i in range(6)]


@pytest.mark.parametrize(
    "changes", [{}, {"kernel": 1, "positions": "learned"}, {"positions": "sinusoidal"}, {"levels": 1, "most_side": 16}]
)
def test_the_output_is_an_image_and_every_parameter_learns(changes: dict[str, Any]) -> None:
    model, _ = build(**changes)
    x, level = tensors()
    out = model.train()(x, level)
    assert out.shape == (2, 1, 16, 16)
    out.square().sum().backward()
    dead = {name for name, p in model.named_parameters() if not p.grad.abs().sum() > 1e-12}
    assert not [name for name in dead if not name.endswith("k.bias")]  # softmax does not change with a bias of k


def test_sinusoids_tell_each_pixel_by_its_row_and_column() -> None:
    table = RowsAndColumns(8, 12).table
    assert table.shape == (64, 12) and len(table.unique(dim=0)) == 64
    places = table.view(8, 8, 12)
    assert torch.equal(places[3, :, :6], places[3, :1, :6].expand(8, -1))  # a row's pixels share the first half
    assert torch.equal(places[:, 5, 6:], places[:1, 5, 6:].expand(8, -1))
    assert torch.equal(places[2, 2, :6], places[2, 2, 6:])


def test_the_noise_level_matters() -> None:
    model, _ = build()
    x, level = tensors()
    assert not torch.allclose(model(x, level), model(x, level / 2))


@pytest.mark.parametrize(("mechanism", "reach"), [("none", 4), ("softmax", 16)])
def test_with_kernel_1_a_pixel_reads_its_square_of_the_lowest_level_and_the_rest_by_attention(
    mechanism: str, reach: int
) -> None:
    # group norms read the whole image: take them out
    model, _ = build(mechanism, kernel=1)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.Identity())
    x, level = tensors()
    x.requires_grad_()
    gradient = torch.autograd.grad(model(x, level)[0, 0, 5, 6], x)[0][0].abs().sum(0) > 1e-12
    rows, columns = gradient.any(1).nonzero().flatten().tolist(), gradient.any(0).nonzero().flatten().tolist()
    first = (4, 4) if reach == 4 else (0, 0)  # pixel (5, 6) is in the square of 4 by 4 from (4, 4) on
    assert rows == list(range(first[0], first[0] + reach)) and columns == list(range(first[1], first[1] + reach))


def test_the_open_implementation_has_its_published_size() -> None:
    # 97,807,491 parameters for 16 to 128 pixels; its projections of q, k and v have no bias, ours have
    layers = LayerBuilder(registry.load("mechanism", "softmax"), {}, "NS")
    with torch.device("meta"):
        model = UNet(layers, side=128, image_channels=3, heads=1, dim=64, levels=5, blocks=2)
    biases = sum(p.numel() for name, p in model.named_parameters() if "projections" in name and name.endswith("bias"))
    assert sum(p.numel() for p in model.parameters()) - biases == 97_807_491


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 18}, "side=18: 3 levels need a multiple of 4"),
        ({"kernel": 5}, "kernel=5: 1 or 3"),
        ({"positions": "rotary"}, "unknown positions 'rotary'"),
        ({"groups": 3}, "groups=3 does not divide"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**changes)
