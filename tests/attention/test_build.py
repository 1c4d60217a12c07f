"""Mechanisms are built with what they wrap, and layers with the mechanism of their pattern."""

import pytest
from cab.mechanisms.linear import Linear

from cab import Mechanism, Pattern, Slot, Wrapper
from cab.attention.build import LayerBuilder, build_mechanism
from cab.errors import Unsupported, UsageError
from cab.plugins import registry


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


@pytest.mark.parametrize(
    ("others", "built"),
    [("softmax", "softmax"), ("none", "none"), ("mean", "mean"), ("same", "linear")],
)
def test_the_other_slots_hold_what_others_names(others: str, built: str) -> None:
    expected = registry.load("mechanism", built)
    builder = LayerBuilder(Linear, {"chunk": 4}, "CS", others=others)
    layers = [builder(Slot(Pattern.of(p), heads=2, dim=8, max_len=40)) for p in ("NS", "CS", "NC")]
    assert [type(layer.mechanism).__name__ for layer in layers] == [expected.__name__, "Linear", expected.__name__]
    assert builder.built == [layers[1].mechanism]
    if others == "same":
        assert [layer.mechanism.chunk for layer in layers] == [4, 4, 4]


def test_a_slot_that_refuses_what_is_in_all_of_them_says_so() -> None:
    builder = LayerBuilder(registry.load("mechanism", "s4d"), {}, "CS", others="same")
    builder(Slot(Pattern.CS, heads=2, dim=8, max_len=40))
    with pytest.raises(Unsupported, match="task.others=same: .* does not support"):
        builder(Slot(Pattern.NC, heads=2, dim=8, max_len=40))


def test_a_model_without_the_slots_that_a_case_is_about_is_refused() -> None:
    builder = LayerBuilder(Linear, {}, "NS", others="none")
    with pytest.raises(Unsupported, match="the model of some_task has no slot for NS"):
        builder.check("some_task")
    builder(Slot(Pattern.NS, heads=2, dim=8, max_len=40))
    with pytest.raises(Unsupported, match="task.others=none: the model of some_task has no slot of another pattern"):
        builder.check("some_task")
    builder(Slot(Pattern.CS, heads=2, dim=8, max_len=40))
    builder.check("some_task")
