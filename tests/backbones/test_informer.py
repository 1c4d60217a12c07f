"""Informer: which slots it has, what reaches the forecast, and the halving of its source."""

from typing import Any

import pytest
import torch

from cab.attention.build import LayerBuilder
from cab.backbones.informer import Distilling, Informer
from cab.plugins import registry

SIZES: dict[str, Any] = {"variables": 2, "known": 3, "max_len": 8, "source_len": 12, "horizon": 6, "heads": 2, "dim": 4}


def build(pattern: str = "NC", mechanism: str = "softmax", **changes: Any) -> tuple[Any, LayerBuilder]:
    layers = LayerBuilder(registry.load("mechanism", mechanism), {}, pattern)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {**SIZES, "layers": 2, "encoder_layers": 3, "mlp": 8, **changes}
        return Informer(layers, **sizes).double().eval(), layers


def tokens(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((8, 2), (8, 3), (12, 2), (12, 3))
    return [torch.randn(4, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_forecast_is_the_last_rows_and_every_parameter_learns(norm: str, distil: bool) -> None:
    model, _ = build(norm=norm, distil=distil)
    out = model.train()(*tokens())
    assert out.shape == (4, 6, 2)
    out.square().sum().backward()
    dead = {name for name, p in model.named_parameters() if not p.grad.abs().sum() > 1e-9}
    # softmax does not change with a bias of k, nor a batch norm with what is added to every token before it
    without_effect = ".bias" if distil else "k.bias"
    assert not [name for name in dead if not name.endswith(without_effect)]


@pytest.mark.parametrize("distil", [False, True])
def test_each_pattern_has_its_slots_and_distilling_halves_the_source(distil: bool) -> None:
    lengths = [12, 6, 3] if distil else [12, 12, 12]
    slots = {pattern: [m.slot for m in build(pattern, distil=distil)[1].built] for pattern in ("NS", "CS", "NC")}
    assert [(slot.layer, slot.max_len) for slot in slots["NS"]] == list(enumerate(lengths))
    assert [(slot.layer, slot.max_len) for slot in slots["CS"]] == [(0, 8), (1, 8)]
    assert [(slot.max_len, slot.source_len) for slot in slots["NC"]] == [(8, lengths[-1])] * 2


def test_the_past_reaches_the_forecast_through_the_cross_attention_alone() -> None:
    one, other = tokens(0), tokens(1)
    mixed = [*one[:2], *other[2:]]
    for mechanism, same in (("none", True), ("softmax", False)):
        model, _ = build(mechanism=mechanism)
        assert torch.equal(model(*one), model(*mixed)) == same


@pytest.mark.parametrize("n", [1, 6, 7])
def test_distilling_keeps_the_maximum_of_three_at_every_other_token(n: int) -> None:
    distilling = Distilling(4).double().eval()
    x = torch.randn(2, n, 4, dtype=torch.float64)
    full = torch.nn.functional.elu(distilling.norm(distilling.convolution(x.transpose(1, 2)))).transpose(1, 2)
    expected = [full[:, max(0, i - 1) : i + 2].amax(1) for i in range(0, n, 2)]
    torch.testing.assert_close(distilling(x), torch.stack(expected, 1))
