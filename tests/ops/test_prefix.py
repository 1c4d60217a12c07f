"""Prefix sums with gradients by hand: they equal their definitions, and their gradients equal finite differences."""

import pytest
import torch
from torch import Tensor

from cab.ops.means import running_mean
from cab.ops.prefix import _exclusive_sums, causal_average, causal_linear_from


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize(("n", "chunk"), [(7, 3), (8, 8), (5, 16)])
def test_causal_products_and_their_gradients_are_exact(n: int, chunk: int) -> None:
    q, k, v, state = (drawn(2, 2, *shape, seed=i) for i, shape in enumerate(((n, 3), (n, 3), (n, 4), (3, 4))))
    weights = (q @ k.transpose(-1, -2)).tril()
    out, end = causal_linear_from(q, k, v, state, chunk)
    torch.testing.assert_close(out, weights @ v + q @ state)
    torch.testing.assert_close(end, state + k.transpose(-1, -2) @ v)
    torch.testing.assert_close(causal_average(q, k, v, chunk), weights / weights.sum(-1, keepdim=True) @ v)
    assert torch.autograd.gradcheck(lambda *t: causal_linear_from(*t, chunk), (q, k, v, state))
    assert torch.autograd.gradcheck(lambda *t: causal_average(*t, chunk), (q, k, v))


@pytest.mark.parametrize("n", [1, 32, 40])
@pytest.mark.parametrize("masked", [True, False])
def test_running_means_and_their_gradients_are_exact(n: int, masked: bool) -> None:
    v, real = drawn(2, 2, n, 2, seed=0), drawn(2, n, seed=1).detach() > (0.5 if masked else -1.0)
    seen = real[:, None, None, :].double().expand(-1, 1, n, -1).tril()
    expected = seen / seen.sum(-1, keepdim=True).clamp(min=1) @ v
    torch.testing.assert_close(running_mean(v, real if masked else None), expected)
    assert torch.autograd.gradcheck(lambda v: running_mean(v, real if masked else None), (v,))


@pytest.mark.parametrize("backward", [False, True])
def test_compiled_sums_over_chunks_do_not_stall_in_16_bits(backward: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    types: list[torch.dtype] = []
    cumsum = Tensor.cumsum

    def watched(t: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        types.append(t.dtype if dtype is None else dtype)  # on a GPU, also that of the sum that is carried along
        return cumsum(t, dim, dtype=dtype)

    monkeypatch.setattr(Tensor, "cumsum", watched)
    ones = torch.ones(1, 1, 600, 1, 1, dtype=torch.bfloat16)
    before, end = _exclusive_sums(ones, ones, ones[:, :, 0], backward)
    assert types == [torch.float32]
    assert before.dtype is end.dtype is torch.bfloat16
    assert before.amax() == end == 600.0  # 601 is between two numbers
