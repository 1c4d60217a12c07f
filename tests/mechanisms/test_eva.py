"""EVA: what one chunk reads, and which tokens each query is given."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

N = 30


def build(pattern: str = "CS", **params: Any) -> Any:
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=60)
    return registry.load("mechanism", "eva")(slot, **params).double().eval()


def normal(length: int, seed: int) -> Tensor:
    return torch.randn(1, 2, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("params", "message"),
    [({"window": 0}, "window=0"), ({"landmarks": 0}, "landmarks=0"), ({"landmarks": 61}, "60 keys")],
)
def test_a_hyperparameter_that_is_valid_nowhere_is_refused(params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**params)


@pytest.mark.parametrize(("window", "blocks"), [(10, 10), (12, 15), (3, 5)])
def test_causally_the_window_is_whole_chunks_so_that_every_past_token_is_seen(window: int, blocks: int) -> None:
    mechanism, v = build(window=window, landmarks=12, overlap=False), normal(N, 2).requires_grad_()
    assert (mechanism.chunk, mechanism.window) == (5, blocks)
    rows = mechanism(normal(N, 0), normal(N, 1), v).square().sum((0, 1, 3))
    seen = torch.stack([torch.autograd.grad(row, v, retain_graph=True)[0].abs().sum((0, 1, 3)) > 0 for row in rows])
    assert torch.equal(seen, torch.ones(N, N, dtype=torch.bool).tril())


@pytest.mark.parametrize("pattern", ["NS", "CS", "NC", "CC"])
def test_where_all_values_are_one_the_output_is_one(pattern: str) -> None:
    out = build(pattern, landmarks=7, window=4)(normal(N, 0), 3 * normal(N, 1), torch.ones_like(normal(N, 2)))
    torch.testing.assert_close(out, torch.ones_like(out))
