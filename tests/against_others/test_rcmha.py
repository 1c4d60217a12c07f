"""Relative convolutional attention against labml-nn, whose relative attention and convolution the authors joined.

It asks for packages that it does not need here: pip install --no-deps labml-nn==0.5.1 labml==0.4.168.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Pattern, Slot
from cab.plugins import registry

pytest.importorskip("labml_nn")

HEADS, DIM, MAX_LEN = 2, 4, 29


@pytest.mark.parametrize("conv", [3, 5])
@pytest.mark.parametrize("n", [1, 23])
def test_equals_labml_forward_and_backward(n: int, conv: int) -> None:
    from labml_nn.transformers.primer_ez import SpatialDepthWiseConvolution
    from labml_nn.transformers.xl.relative_mha import RelativeMultiHeadAttention

    torch.manual_seed(0)
    theirs = RelativeMultiHeadAttention(HEADS, HEADS * DIM, 0.0)
    ours: Any = registry.load("mechanism", "rcmha")(Slot(Pattern.CS, HEADS, DIM, MAX_LEN), conv=conv)
    projections = [theirs.query, theirs.key, theirs.value]
    convolutions = [SpatialDepthWiseConvolution(DIM, conv) for _ in range(3)]
    theirs.query, theirs.key, theirs.value = (
        nn.Sequential(*parts) for parts in zip(projections, convolutions, strict=True)
    )
    theirs.output = nn.Identity()
    rows = slice(theirs.P + 1 - MAX_LEN, theirs.P + 1)
    with torch.no_grad():
        for t in (theirs.key_pos_embeddings, theirs.key_pos_bias, theirs.query_pos_bias):
            t.normal_()
        for kernel, convolution in zip(ours.convs, convolutions, strict=True):
            kernel.kernel.copy_(convolution.conv.weight)
            kernel.bias.copy_(convolution.conv.bias)
        ours.u.copy_(theirs.query_pos_bias.unsqueeze(1))
        ours.r.copy_(theirs.key_pos_embeddings[rows].transpose(0, 1))
        ours.b.copy_(theirs.key_pos_bias[rows].T)
    x = torch.randn(n, 2, HEADS * DIM, requires_grad=True)
    their_out = theirs(query=x, key=x, value=x, mask=torch.ones(n, n, dtype=torch.bool).tril().unsqueeze(2))

    def heads(projection: nn.Module) -> Tensor:
        return projection(x).permute(1, 2, 0, 3)

    our_out = ours(*map(heads, projections)).permute(2, 0, 1, 3).flatten(2)
    torch.testing.assert_close(our_out, their_out)
    weight = torch.randn_like(our_out)
    gradients = [torch.autograd.grad((out * weight).sum(), x)[0] for out in (our_out, their_out)]
    torch.testing.assert_close(*gradients)
