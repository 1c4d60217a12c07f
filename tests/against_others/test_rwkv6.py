"""RWKV-6's recurrence against the plain function of flash-linear-attention, with its inputs as the paper has them."""

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


def inputs_of(mechanism: Any, x: torch.Tensor, last: torch.Tensor) -> list[torch.Tensor]:
    """Write ddlerp and lora(x) = lambda + tanh(x A) B of the paper (equations 13 to 17)."""
    step, tensors = last - x, []
    low = x + step * mechanism.base
    for mix, names in ((mechanism.of_target, "rg"), (mechanism.of_source, "kvd")):
        for i, name in enumerate(names):
            down = mix.down.weight.chunk(len(mix.shares))[i]
            mixed = x + step * (mix.shares[i] + torch.tanh(low @ down.mT) @ mix.up[i])
            if name == "d":
                decay = mechanism.up.bias + torch.tanh(mixed @ mechanism.down.weight.mT) @ mechanism.up.weight.mT
                tensors.append(-decay.exp())
            else:
                tensors.append(mixed @ mechanism.projections[name].weight.mT)
    return [t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in tensors]


@pytest.mark.parametrize("n", [2, 37, 64])
def test_equals_their_recurrence_with_its_norm_and_gate(n: int) -> None:
    torch.manual_seed(0)
    slot = Slot(Pattern.CS, HEADS, DIM, n, value_dim=VALUE, width=WIDTH)
    mechanism: Any = registry.load("mechanism", "rwkv6")(slot, chunk=16)
    for weights in (mechanism.bonus, mechanism.up.weight, mechanism.of_target.up, mechanism.of_source.up):
        torch.nn.init.normal_(weights)  # as if trained: at first the maps of low rank are near zero
    y, before = torch.randn(3, n, WIDTH, requires_grad=True), torch.zeros(3, 1, WIDTH)
    r, g, k, v, gate = inputs_of(mechanism, y, torch.cat([before, y[:, :-1]], 1))
    expected = mechanism.norm(naive_recurrent_rwkv6(r, k, v, gate, mechanism.bonus[:, 0], scale=1.0)[0]) * F.silu(g)
    out = mechanism(x=y, y=y)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    weight, leaves = torch.randn(out.shape), [y, mechanism.up.bias, mechanism.projections["k"].weight]
    gradients = (torch.autograd.grad((t * weight).sum(), leaves, retain_graph=True) for t in (out, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
