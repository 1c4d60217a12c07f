"""RWKV-6's recurrence against the plain function of flash-linear-attention."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cab import Pattern, Slot
from cab.plugins import registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants a GPU, which its plain functions do not need
    pytest.importorskip("fla.ops.rwkv6.recurrent_naive")
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6

HEADS, DIM, VALUE, WIDTH = 2, 8, 6, 12


@pytest.mark.parametrize("n", [2, 37, 64])
def test_equals_their_recurrence_with_its_norm_and_gate(n: int) -> None:
    torch.manual_seed(0)
    slot = Slot(Pattern.CS, HEADS, DIM, n, value_dim=VALUE, width=WIDTH)
    mechanism: Any = registry.load("mechanism", "rwkv6")(slot, chunk=16)
    torch.nn.init.normal_(mechanism.bonus)
    y, before = torch.randn(3, n, WIDTH, requires_grad=True), torch.zeros(3, 1, WIDTH)
    r, g, _ = mechanism._target(y, before, None)
    k, v, gate, _ = mechanism._source(y, before, None)
    expected = mechanism.norm(naive_recurrent_rwkv6(r, k, v, gate, mechanism.bonus[:, 0], scale=1.0)[0]) * F.silu(g)
    out = mechanism(x=y, y=y)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    weight, leaves = torch.randn(out.shape), [y, mechanism.up.bias, mechanism.projections["k"].weight]
    gradients = (torch.autograd.grad((t * weight).sum(), leaves, retain_graph=True) for t in (out, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
