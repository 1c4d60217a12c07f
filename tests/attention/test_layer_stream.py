"""The attention layer token by token: what `step` gives is what `forward` gives."""

from dataclasses import replace

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.build import LayerBuilder
from cab.plugins import registry

N, M, WIDTH = 11, 7, 8


# every kind of state, of what is read and of inputs
CASES = {
    "CS": (
        "softmax",
        "linear",
        "abc",
        "mean",
        "local",
        "long_short",
        "gated_deltanet",
        "gla",
        "mla",
        "retention",
        "s4d",
    ),
    "CC": ("softmax", "linear", "abc", "mean", "performer", "agent", "mla", "synthesizer"),
}


@pytest.mark.parametrize("rotary", [None, 100.0])
@pytest.mark.parametrize(("name", "pattern"), [(name, p) for p, names in CASES.items() for name in names])
def test_a_layer_decodes_what_it_computes_at_once(name: str, pattern: str, rotary: float | None) -> None:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=4, max_len=N, source_len=M if pattern == "CC" else None)
    slot = replace(slot, rotary=rotary)
    layer = LayerBuilder(registry.load("mechanism", name), {}, pattern)(slot).double().eval()
    assert layer.streams
    x = torch.randn(2, N, WIDTH, dtype=torch.float64)
    y = torch.randn(2, M, WIDTH, dtype=torch.float64) if pattern == "CC" else None
    y_mask = None if y is None else torch.arange(M) < torch.tensor([[M], [3]])
    with torch.no_grad():
        expected = layer(x, None, y, y_mask)
        state, rows = layer.init_state(x[:, :0], y, y_mask), []
        for first, last in ((0, 1), (1, 4), *((i, i + 1) for i in range(4, N))):
            out, state = layer.step(state, x[:, first:last])
            rows.append(out)
    torch.testing.assert_close(torch.cat(rows, 1), expected)


def test_a_noncausal_layer_does_not_stream() -> None:
    for pattern, streams in (("NS", False), ("NC", False), ("CS", True), ("CC", True)):
        layer = LayerBuilder(registry.load("mechanism", "softmax"), {}, pattern)(Slot(Pattern.of(pattern), 1, 4, 8))
        assert layer.streams == streams
