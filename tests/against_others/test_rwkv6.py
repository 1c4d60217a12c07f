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
def test_equals_their_recurrence_with_its_norm_and_gate(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64: the norm divides by a small spread here and there, and enlarges what float32 rounds away."""
    torch.manual_seed(0)
    slot = Slot(Pattern.CS, HEADS, DIM, n, value_dim=VALUE, width=WIDTH)
    mechanism: Any = registry.load("mechanism", "rwkv6")(slot, chunk=16).double()
    for weights in (mechanism.bonus, mechanism.up.weight, mechanism.of_target.up, mechanism.of_source.up):
        torch.nn.init.normal_(weights)  # as if trained: at first the maps of low rank are near zero
    y = torch.randn(3, n, WIDTH, dtype=torch.float64, requires_grad=True)
    r, g, k, v, gate = inputs_of(mechanism, y, F.pad(y[:, :-1], (0, 0, 1, 0)))
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)  # their function computes in float32 otherwise
        theirs, _ = naive_recurrent_rwkv6(r, k, v, gate, mechanism.bonus[:, 0], scale=1.0)
    expected, out = mechanism.norm(theirs) * F.silu(g), mechanism(x=y, y=y)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    weight, leaves = torch.randn_like(out), [y, mechanism.up.bias, mechanism.projections["k"].weight]
    gradients = (torch.autograd.grad((t * weight).sum(), leaves, retain_graph=True) for t in (out, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
