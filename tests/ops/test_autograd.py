"""What every autograd function of `cab.ops` promises."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cab.ops.feature_maps import elu_plus_one
from cab.ops.prefix import divide_by_weights
from cab.ops.softmax import masked_softmax


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "function",
    [
        elu_plus_one,
        lambda x: divide_by_weights(x, x.sum(-1, keepdim=True)),
        lambda x: masked_softmax(x, torch.ones(3, 3).bool().tril()),
    ],
)
def test_a_second_derivative_is_refused_and_not_wrong(function: Any) -> None:
    x = normal(3, 3).abs().requires_grad_()
    (grad_x,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        grad_x.sum().backward()
