"""Nyströmformer: the iteration converges to the pseudo-inverse; which landmarks are accepted."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.ops.segments import segment_means
from cab.plugins import registry


def build(**params: Any) -> Any:
    slot = Slot(Pattern.NS, heads=1, dim=8, max_len=64)
    return registry.load("mechanism", "nystrom")(slot, **params).double().eval()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"landmarks": 0}, "landmarks=0"),
        ({"landmarks": 65}, "64 queries"),
        ({"conv": 4}, "conv=4"),
        ({"iterations": 0}, "iterations=0"),
    ],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**params)


def test_with_more_iterations_it_nears_the_true_pseudo_inverse() -> None:
    q, k, v = (
        torch.randn(1, 1, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i in range(3)
    )
    k_means, q_means = segment_means(k, None, 8)[0], segment_means(q, None, 8)[0]
    pairs = (q, k_means), (q_means, k_means), (q_means, k)
    first, middle, last = ((a @ b.mT / 8**0.5).softmax(-1) for a, b in pairs)
    exact = first @ torch.linalg.pinv(middle) @ (last @ v)
    errors = [
        (build(landmarks=8, conv=0, iterations=steps)(q, k, v) - exact).abs().max().item() for steps in (6, 12, 30)
    ]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-6


def test_in_causal_cross_the_keys_alone_bound_the_landmarks() -> None:
    few_queries = Slot(Pattern.CC, heads=1, dim=8, max_len=32, source_len=4096)
    assert registry.load("mechanism", "nystrom")(few_queries).landmarks == 64
    few_keys = Slot(Pattern.CC, heads=1, dim=8, max_len=4096, source_len=32)
    with pytest.raises(ValueError, match="from 1 to the 32 keys"):
        registry.load("mechanism", "nystrom")(few_keys)
