"""Recurrences in segments give what they give in one call."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab.ops.decay import decayed_linear
from cab.ops.gated import gated_linear, gated_scores
from cab.ops.segment_scan import scan_segments


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def qkv(n: int, m: int | None = None, dim: int = 8) -> list[Tensor]:
    return [normal(2, 2, length, dim, seed=seed) for seed, length in enumerate((n, m or n, m or n))]


@pytest.mark.parametrize("n", [37, 64, 133])
def test_without_gradients_the_tokens_come_in_segments_with_the_same_result(n: int) -> None:
    q, k, v = qkv(n)
    gate, rate, state = -k.square(), torch.tensor([0.3, 0.01], dtype=torch.float64), normal(2, 2, 8, 8, seed=5)
    calls: tuple[Any, ...] = (
        lambda: gated_linear(q, k, v, gate, state, 4),
        lambda: gated_scores(q, k, v, gate, state, 4),
        lambda: (decayed_linear(q, k, v, rate, 2), decayed_linear(q, k, v, rate, 2, token_map=torch.tanh)),
    )
    for call in calls:
        whole = call()
        with torch.no_grad():
            in_segments = call()
        torch.testing.assert_close(in_segments, whole)

    sizes: list[int] = []

    def counted(t: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(t.shape[2])
        return t, total + t.shape[2]

    with torch.no_grad():
        out, total = scan_segments(counted, (q,), torch.zeros(()), 4)
    assert torch.equal(out, q) and total == n == sum(sizes)
    assert len(sizes) in range(4, 9) and all(size % 4 == 0 for size in sizes[:-1])
