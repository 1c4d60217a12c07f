"""The layer's rotary positions: what turns, and what a mechanism with keys of its own makes of them."""

from typing import Any

import pytest
import torch

from cab import Mechanism, Pattern, Slot
from cab.attention.build import LayerBuilder
from cab.attention.layer import AttentionLayer
from cab.plugins import registry

N = 48


def layer_of(name: str, rotary: float | None, **params: Any) -> AttentionLayer:
    torch.manual_seed(0)
    slot = Slot(Pattern.NS, heads=2, dim=16, max_len=N, rotary=rotary)
    return LayerBuilder(registry.load("mechanism", name), params, "NS")(slot).double().eval()


def rows_of_equal_tokens(layer: torch.nn.Module) -> torch.Tensor:
    x = torch.randn(1, N, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 40] = x[0, 3]
    return layer(x)[0, [3, 40]]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "params"),
    [("vwa", {"windows": 1, "ratio": 1}), ("fasa", {}), ("synthesizer", {"kind": "dense"})],
)
def test_queries_do_not_turn_where_keys_are_the_mechanisms_own(name: str, params: dict[str, Any]) -> None:
    equal = rows_of_equal_tokens(layer_of(name, 100.0, **params))
    torch.testing.assert_close(equal[0], equal[1])


@torch.no_grad()
@pytest.mark.parametrize("name", ["softmax", "reformer", "reformer_leaky", "differential"])
def test_queries_and_keys_turn_together(name: str) -> None:
    equal = rows_of_equal_tokens(layer_of(name, 100.0))
    assert (equal[0] - equal[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_scores_of_softmax_depend_on_the_distance_alone() -> None:
    turned, plain = (layer_of("softmax", base) for base in (100.0, None))
    x = torch.randn(1, N, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    late = torch.cat([x[:, :1].expand(-1, 9, -1), x], 1)[:, :N]  # nine places later
    place = torch.arange(N)[None]
    moved, unmoved = turned(late, place >= 9)[0, 9:], turned(x, place < N - 9)[0, : N - 9]
    torch.testing.assert_close(moved, unmoved)
    assert (turned(x) - plain(x)).abs().max() > 1e-3


def test_what_reads_queries_without_keys_is_known() -> None:
    """A new mechanism of this kind decides whether its keys turn: see cab/attention/layer.py."""
    found = set()
    for name in registry.names("mechanism"):
        cls: type[Mechanism] = registry.load("mechanism", name)
        reads = cls.reads if isinstance(cls.reads, str) else "".join(str(entry) for entry in cls.reads)
        if "q" in reads and "qkv" not in reads and not cls.rotates:
            found.add(name)
    assert found == {"fasa", "vwa"}
