"""Mamba, its layer included, against transformers' Mamba (its path without kernels, a loop over the tokens)."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.streaming import stream
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, VALUE, WIDTH = 3, 6, 18


@pytest.mark.parametrize("n", [1, 37, 130])
def test_equals_transformers_forward_and_backward(n: int) -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    config = MambaConfig(
        hidden_size=WIDTH, state_size=5, expand=1, conv_kernel=4, time_step_rank=3, num_hidden_layers=1
    )
    theirs = MambaMixer(config, 0)
    slot = Slot(Pattern.CS, HEADS, VALUE, n, width=WIDTH)
    ours: Any = registry.load("mechanism", "mamba")(slot, states=5, rank=3, chunk=16)
    project, gate = theirs.in_proj.weight.chunk(2)
    down, of_b, of_c = theirs.x_proj.weight.split([3, 5, 5])
    with torch.no_grad():
        ours.gate.weight.copy_(gate)
        ours.down.weight.copy_(down)
        ours.of_b.weight.copy_(of_b)
        ours.of_c.weight.copy_(of_c)
        ours.up.load_state_dict(theirs.dt_proj.state_dict())
        ours.log_rate.copy_(theirs.A_log.view(HEADS, VALUE, 5))
        ours.skip.copy_(theirs.D.normal_().view(HEADS, 1, VALUE))
        ours.conv.kernel.copy_(theirs.conv1d.weight)
        ours.conv.bias.copy_(theirs.conv1d.bias.normal_())
    x = torch.randn(2, n, WIDTH, requires_grad=True)
    call = {"v": (x @ project.T).unflatten(2, (HEADS, -1)).transpose(1, 2), "x": x}

    def layer(out: torch.Tensor) -> torch.Tensor:
        return theirs.out_proj(out.transpose(1, 2).flatten(2))

    out, expected = layer(ours(**call)), theirs(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(stream(ours, call | {"key_mask": torch.ones(2, n, dtype=torch.bool)}, n // 2)),
            expected,
            rtol=1e-4,
            atol=1e-5,
        )
    weight = torch.randn(out.shape)
    mine = torch.autograd.grad((out * weight).sum(), [x, ours.log_rate, ours.up.bias, ours.skip, ours.conv.kernel])
    leaves = [x, theirs.A_log, theirs.dt_proj.bias, theirs.D, theirs.conv1d.weight]
    others = torch.autograd.grad((expected * weight).sum(), leaves)
    for gradient, other in zip(mine, others, strict=True):
        torch.testing.assert_close(gradient, other.view(gradient.shape), rtol=1e-3, atol=1e-4)
