"""Differential attention: what it is where a map is switched off, and how its weight depends on the layer."""

from typing import Any

import pytest
import torch
from cab.mechanisms.differential import Differential
from torch import Tensor

from cab import Pattern, Slot

PATTERNS = pytest.mark.parametrize("pattern", Pattern.__members__)


def build(pattern: str, layer: int = 0, **slot: Any) -> Any:
    torch.manual_seed(0)
    made = Slot(Pattern.of(pattern), heads=2, max_len=32, layer=layer, layers=layer + 1, **{"dim": 8, **slot})
    return Differential(made).double().eval()


def normal(length: int, seed: int, size: int = 8) -> Tensor:
    return torch.randn(2, 2, length, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normed(t: Tensor) -> Tensor:
    return t / (t.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def half_softmax(pattern: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of the first halves, scaled by the root of a half."""
    scores = q[..., :4] @ k[..., :4].mT / 2
    if pattern == "CS":
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(("layer", "initial"), [(0, 0.2), (1, 0.3555), (3, 0.5561), (30, 0.7999)])
def test_the_initial_weight_grows_with_the_layer_towards_four_fifths(layer: int, initial: float) -> None:
    mechanism = build("NS", layer)
    assert mechanism.initial == pytest.approx(initial, abs=1e-4)
    with torch.no_grad():
        mechanism.vectors.zero_()  # both exponentials are 1
    assert mechanism._weight(mechanism.scale).item() == pytest.approx(initial, abs=1e-4)


@PATTERNS
def test_with_a_weight_of_zero_map_two_counts_nothing(pattern: str) -> None:
    mechanism = build(pattern)
    with torch.no_grad():  # exp(0) - exp(log 1.2) + 0.2 = 0
        mechanism.vectors.zero_()
        mechanism.vectors[2:, 0] = torch.tensor(1.2, dtype=torch.float64).log().sqrt()
    q, k, v = normal(9, 0), normal(9, 1), normal(9, 2)
    torch.testing.assert_close(mechanism(q, k, v), 0.8 * normed(half_softmax(pattern, q, k, v)))


@PATTERNS
def test_what_both_maps_weigh_alike_cancels_but_for_a_share(pattern: str) -> None:
    mechanism = build(pattern)
    q, k, v = normal(9, 0), normal(9, 1), normal(9, 2)
    q, k = (torch.cat([t[..., :4], t[..., :4]], -1) for t in (q, k))
    share = 1 - mechanism._weight(v)
    torch.testing.assert_close(mechanism(q, k, v), 0.8 * normed(share * half_softmax(pattern, q, k, v)))


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_positions_count_by_their_distance_alone(backend: str) -> None:
    mechanism = build("NS", rotary=100.0).use(backend)
    q, k, v = normal(1, 0).expand(-1, -1, 12, -1), normal(12, 1), normal(12, 2)
    k = torch.cat([k[:, :, :4], k[:, :, :4], k[:, :, :4]], 2)  # the same keys in periods of 4
    tall = torch.cat([v[:, :, :4], torch.zeros_like(v[:, :, :8])], 2)
    masks = [torch.arange(12).expand(2, -1) < 4, torch.arange(12).expand(2, -1) >= 8]
    early = mechanism(q, k, tall, key_mask=masks[0])[:, :, 1]
    late = mechanism(q, k, tall.roll(8, 2), key_mask=masks[1])[:, :, 9]
    torch.testing.assert_close(early, late)
    assert not torch.allclose(early, mechanism(q, k, tall.roll(8, 2), key_mask=masks[1])[:, :, 10])


def test_a_head_without_halves_is_refused() -> None:
    with pytest.raises(ValueError, match="dim=7"):
        build("NS", dim=7)
