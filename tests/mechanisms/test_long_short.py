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


@pytest.mark.parametrize("computed", ["attend", "reference", "step"])
def test_causally_the_mixtures_are_of_keys_and_values_that_have_passed_no_norm(computed: str) -> None:
    """As in the authors' autoregressive code: with weights of one half, LN((v_0 + v_1) / 2), and not of LN(v)."""
    slot = Slot(Pattern.CS, heads=1, dim=4, max_len=8)
    mechanism = registry.load("mechanism", "long_short")(slot, window=2, chunk=2).double()
    torch.nn.init.zeros_(mechanism.mix.weight)
    q, v = torch.zeros(1, 1, 4, 4).double(), torch.zeros(1, 1, 4, 4).double()
    v[0, 0, 0, 0] = 1
    v[0, 0, 1, :2] = 10
    y = torch.zeros(1, 4, slot.tokens).double()
    if computed == "step":
        state = mechanism.init_state(q[:, :, :0], v[:, :, :0], y=y[:, :0])
        out, _ = mechanism.step(state, q, q, v, y=y)
    else:
        out = getattr(mechanism, computed)(q, q, v, y=y)
    # the last query weighs the mixture of the first chunk, and two tokens of zeros, equally
    mixture = torch.nn.functional.layer_norm((v[0, 0, 0] + v[0, 0, 1]) / 2, (4,))
    torch.testing.assert_close(out[0, 0, 3], mixture / 3)
    expected = torch.tensor([0.364, 0.301, -0.333, -0.333]).double()
    torch.testing.assert_close(out[0, 0, 3], expected, atol=1e-3, rtol=0)
