"""DeepSeek sparse attention against the plain functions of flash-linear-attention."""

import warnings
from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants a GPU, which its plain functions do not need
    pytest.importorskip("fla.ops.dsa.naive")
    from fla.ops.dsa.naive import naive_dsa

HEADS, DIM, WIDTH, N = 4, 8, 12, 61


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("selected", [5, 64])
def test_equals_theirs_forward_and_backward(selected: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    slot = Slot(Pattern.CS, HEADS, DIM, N, kv_heads=kv_heads, width=WIDTH)
    ours: Any = registry.load("mechanism", "dsa")(slot, selected=selected, index_heads=8, index_size=6)
    with torch.no_grad():  # with weights above 0 and many heads no score of 0 is chosen, of which they take any
        ours.of_weight.weight.abs_()
    q, k, v = (torch.randn(2, heads, N, DIM, requires_grad=True) for heads in (HEADS, kv_heads, kv_heads))
    x = torch.randn(2, N, WIDTH).abs()
    index_q, weight = ours.of_query(x).unflatten(-1, (8, 6)), ours.of_weight(x)
    index_k = ours.index_keys(x, torch.arange(N)).squeeze(1)
    expected = naive_dsa(*(t.transpose(1, 2) for t in (q, k, v)), index_q, index_k, weight, topk=selected)
    out, expected = ours.eval()(q, k, v, x=x, y=x), expected.transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    direction = torch.randn(out.shape)
    gradients = (torch.autograd.grad((t * direction).sum(), [q, k, v]) for t in (out, expected))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
