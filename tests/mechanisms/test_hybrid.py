"""A hybrid model: which layer has which mechanism, and that a layer has nothing of the other one."""

from typing import Any

import pytest
import torch
from cab.mechanisms.hybrid import Hybrid

from cab import Pattern, Slot, Unsupported
from cab.attention.build import LayerBuilder, build_mechanism


def layer(number: int, layers: int, inner: str, second: str, pattern: str = "CS", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64, layer=number, layers=layers)
    return build_mechanism(Hybrid, {"inner": {"name": inner}, "second": {"name": second}, **params}, slot)


@pytest.mark.parametrize(
    ("params", "layers", "expected"),
    [
        ({}, 8, "gggsgggs"),
        ({}, 3, "ggg"),
        ({"every": 2}, 5, "gsgsg"),
        ({"every": 3, "offset": 0}, 7, "sggsggs"),
        ({"every": 3, "offset": -2}, 7, "gsggsgg"),
        ({"every": 1}, 3, "sss"),
    ],
)
def test_one_layer_of_a_period_has_the_second_mechanism(params: Any, layers: int, expected: str) -> None:
    names = [type(layer(i, layers, "gla", "softmax", **params).inner).__name__ for i in range(layers)]
    assert "".join(name[0].lower() for name in names) == expected


def test_a_layer_has_the_weights_inputs_grade_and_steps_of_its_own_mechanism_alone() -> None:
    gated, leaky = (layer(i, 2, "gla", "probsparse_leaky", every=2) for i in range(2))
    assert set(gated.inputs) == {"x", "y"} and not leaky.inputs
    assert sum(p.numel() for p in leaky.parameters()) == 0 < sum(p.numel() for p in gated.parameters())
    assert (gated.grade, leaky.grade) == ("native", "leaky") and gated.streams and not leaky.streams


def test_a_model_that_alternates_trains() -> None:
    builder = LayerBuilder(Hybrid, {"inner": {"name": "linear"}, "second": {"name": "softmax"}, "every": 2}, "CS")
    layers = [builder(Slot(Pattern.CS, heads=2, dim=8, max_len=64, layer=i, layers=4)) for i in range(4)]
    x = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0))
    for each in layers:
        x = x + each(x)
    x.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for each in layers for name, p in each.named_parameters())


def test_what_one_layer_refuses_the_model_refuses() -> None:
    with pytest.raises(Unsupported, match="Linformer does not support CS"):
        layer(0, 4, "softmax", "linformer")


@pytest.mark.parametrize("params", [{"every": 0}, {"every": 4, "offset": 4}, {"every": 4, "offset": -5}])
def test_a_layer_outside_of_the_period_is_refused(params: Any) -> None:
    with pytest.raises(ValueError, match="a layer of the period|every=0"):
        layer(0, 4, "linear", "softmax", **params)
