"""Causal linear attention and its handwritten gradients against definitions and finite differences."""

import pytest
import torch
from torch import Tensor

from cab.ops.prefix import _exclusive_sums, causal_average, causal_linear_from


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize(("n", "chunk"), [(7, 3), (8, 8), (5, 16)])
def test_causal_products_and_their_gradients_are_exact(n: int, chunk: int) -> None:
    q, k, v, state = (drawn(2, 2, *shape, seed=i) for i, shape in enumerate(((n, 3), (n, 3), (n, 4), (3, 4))))
    weights = (q @ k.transpose(-1, -2)).tril()
    out, final_state = causal_linear_from(q, k, v, state, chunk)
    torch.testing.assert_close(out, weights @ v + q @ state)
    torch.testing.assert_close(final_state, state + k.transpose(-1, -2) @ v)
    torch.testing.assert_close(causal_average(q, k, v, chunk), weights / weights.sum(-1, keepdim=True) @ v)
    assert torch.autograd.gradcheck(lambda *t: causal_linear_from(*t, chunk), (q, k, v, state))
    assert torch.autograd.gradcheck(lambda *t: causal_average(*t, chunk), (q, k, v))


@pytest.mark.parametrize("reverse", [False, True])
def test_compiled_sums_over_chunks_do_not_stall_in_16_bits(reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    dtypes: list[torch.dtype] = []
    cumsum = Tensor.cumsum

    def watched(t: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        dtypes.append(t.dtype if dtype is None else dtype)  # on a GPU, the dtype of the accumulator too
        return cumsum(t, dim, dtype=dtype)

    monkeypatch.setattr(Tensor, "cumsum", watched)
    ones = torch.ones(1, 1, 600, 1, 1, dtype=torch.bfloat16)
    exclusive, total = _exclusive_sums(ones, ones, ones[:, :, 0], reverse)
    assert dtypes == [torch.float32]
    assert exclusive.dtype is total.dtype is torch.bfloat16
    assert exclusive.amax() == total == 600.0  # 601 is between two bfloat16 numbers
