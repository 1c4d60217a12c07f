"""Long-Short Transformer: which tokens each query is given."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

N = 30


def build(pattern: str = "CS", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64)
    params = {"landmarks": 2, "window": 4, "chunk": 5, **params}
    return registry.load("mechanism", "long_short")(slot, **params).double().eval()


def normal(length: int, seed: int, size: int = 8) -> Tensor:
    return torch.randn(1, 2, length, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"window": 0}, "window=0"),
        ({"landmarks": 0}, "landmarks=0"),
        ({"chunk": 0}, "chunk=0"),
    ],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**params)


def test_only_what_the_pattern_reads_is_held_to_the_slot() -> None:
    build("CS", landmarks=65)
    with pytest.raises(ValueError, match="rank=6: at most the 5 tokens"):
        build("CS", rank=6)
    for pattern in ("NS", "NC", "CC"):
        build(pattern, rank=6)
        with pytest.raises(ValueError, match="64 keys"):
            build(pattern, landmarks=65)


def test_causally_a_query_sees_the_last_window_and_the_chunks_that_ended_before_its_own() -> None:
    mechanism, v = build(), normal(N, 2).requires_grad_()
    y = normal(N, 3, 16)[:, 0]
    rows = mechanism(normal(N, 0), normal(N, 1), v, y=y).square().sum((0, 1, 3))
    seen = torch.stack([torch.autograd.grad(row, v, retain_graph=True)[0].abs().sum((0, 1, 3)) > 0 for row in rows])
    i, j = torch.arange(N)[:, None], torch.arange(N)
    assert torch.equal(seen, ((i - j >= 0) & (i - j < 4)) | (j // 5 < i // 5))
