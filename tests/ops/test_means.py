"""Running means and their gradients against their definition and finite differences."""

import pytest
import torch
from torch import Tensor

from cab.ops.means import running_mean


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("n", [1, 32, 40])
@pytest.mark.parametrize("masked", [True, False])
def test_running_means_and_their_gradients_are_exact(n: int, masked: bool) -> None:
    v, real = drawn(2, 2, n, 2, seed=0), drawn(2, n, seed=1).detach() > (0.5 if masked else -1.0)
    seen = real[:, None, None, :].double().expand(-1, 1, n, -1).tril()
    expected = seen / seen.sum(-1, keepdim=True).clamp(min=1) @ v
    torch.testing.assert_close(running_mean(v, real if masked else None), expected)
    assert torch.autograd.gradcheck(lambda v: running_mean(v, real if masked else None), (v,))
