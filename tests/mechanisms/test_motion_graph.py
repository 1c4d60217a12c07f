"""The graph of motion: symmetric, with a largest eigenvalue of one, and blind to the length of the features."""

from typing import Any

import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

N = 12


def build() -> Any:
    torch.manual_seed(0)
    slot = Slot(Pattern.NS, heads=1, dim=8, max_len=N, value_dim=N, width=8)
    return registry.load("mechanism", "motion_graph")(slot).double().eval()


def graph(mechanism: Any, x: Tensor) -> Tensor:
    """Return the weights: the output of values that are the unit vectors."""
    out: Tensor = mechanism(v=torch.eye(N, dtype=x.dtype)[None, None], x=x, y=x)
    return out[0, 0]


@torch.no_grad()
def test_the_weights_are_symmetric_and_their_largest_eigenvalue_is_one() -> None:
    weights = graph(build(), torch.randn(1, N, 8, dtype=torch.float64))
    torch.testing.assert_close(weights, weights.mT)
    values = torch.linalg.eigvalsh(weights)
    torch.testing.assert_close(values[-1], torch.ones((), dtype=torch.float64))
    assert values[0] > -1 and (weights > 0).all()


@torch.no_grad()
def test_alike_tokens_share_their_values_equally() -> None:
    weights = graph(build(), torch.randn(1, 1, 8, dtype=torch.float64).expand(1, N, 8))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / N))
