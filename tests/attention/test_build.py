"""Mechanisms are built with what they wrap, and layers with the mechanism of their pattern."""

import pytest
from cab.mechanisms.linear import Linear

from cab import Mechanism, Pattern, Slot, Wrapper
from cab.attention.build import LayerBuilder, build_mechanism
from cab.errors import UsageError


def test_a_wrapper_gets_its_inner_mechanism_built() -> None:
    class Wraps(Wrapper):
        def __init__(self, slot: Slot, *, inner: Mechanism, scale: float = 1.0) -> None:
            super().__init__(slot, inner=inner)
            self.scale = scale

    slot = Slot(Pattern.CS, heads=2, dim=8, max_len=40)
    wrapper = build_mechanism(Wraps, {"inner": {"name": "linear", "chunk": 8}, "scale": 2.0}, slot)
    assert isinstance(wrapper.inner, Mechanism) and wrapper.inner.chunk == 8 and wrapper.scale == 2.0
    with pytest.raises(UsageError, match="wraps another mechanism"):
        build_mechanism(Wraps, {}, slot)


def test_attention_loads_softmax_where_it_was_given_none() -> None:
    layer_builder = LayerBuilder(Linear, {"chunk": 4}, "CS")
    layers = [layer_builder(Slot(Pattern.of(p), heads=2, dim=8, max_len=40)) for p in ("CS", "NC", "CS")]
    assert [type(layer.mechanism).__name__ for layer in layers] == ["Linear", "Softmax", "Linear"]
    assert layer_builder.built == [layers[0].mechanism, layers[2].mechanism]
