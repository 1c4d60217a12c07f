"""Mamba-2, its layer included, against transformers' Mamba-2 with as many groups as heads."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.streaming import stream
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, DIM, VALUE, WIDTH = 3, 8, 6, 18


@pytest.mark.parametrize("n", [1, 37, 130])
def test_equals_transformers_forward_and_backward(n: int) -> None:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    torch.manual_seed(0)
    config = Mamba2Config(
        num_heads=HEADS,
        head_dim=VALUE,
        hidden_size=WIDTH,
        state_size=DIM,
        n_groups=HEADS,
        expand=1,
        conv_kernel=4,
        chunk_size=32,
        num_hidden_layers=1,
    )
    theirs = Mamba2Mixer(config, 0)
    slot = Slot(Pattern.CS, HEADS, DIM, n, value_dim=VALUE, width=WIDTH)
    ours: Any = registry.load("mechanism", "mamba2")(slot, chunk=16)
    sizes = [HEADS * VALUE, HEADS * DIM, HEADS * DIM]  # they project to gate, values, keys, queries and steps
    gate, *project, step = theirs.in_proj.weight.split([HEADS * VALUE, *sizes, HEADS])
    with torch.no_grad():
        ours.gate.weight.copy_(gate)
        ours.of_step.weight.copy_(step)
        ours.log_rate.copy_(theirs.A_log)
        ours.shift.copy_(theirs.dt_bias)
        ours.skip.copy_(theirs.D.normal_())
        ours.scale.copy_(theirs.norm.weight.uniform_(0.5, 2).view(HEADS, 1, VALUE))
        theirs.conv1d.bias.normal_()
        for conv, kernel, bias in zip(
            reversed(ours.convs), theirs.conv1d.weight.split(sizes), theirs.conv1d.bias.split(sizes), strict=True
        ):
            conv.kernel.copy_(kernel)
            conv.bias.copy_(bias)
    x = torch.randn(2, n, WIDTH, requires_grad=True)
    tokens = ((x @ weight.T).unflatten(2, (HEADS, -1)).transpose(1, 2) for weight in project)
    call = {**dict(zip("vkq", tokens, strict=True)), "x": x, "y": x}

    def layer(out: torch.Tensor) -> torch.Tensor:
        return theirs.out_proj(out.transpose(1, 2).flatten(2))

    out, expected = layer(ours(**call)), theirs(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(stream(ours, call, n // 2)), expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn(out.shape)
    mine = torch.autograd.grad((out * weight).sum(), [x, ours.log_rate, ours.shift, ours.skip, ours.convs[1].kernel])
    leaves = [x, theirs.A_log, theirs.dt_bias, theirs.D, theirs.conv1d.weight]
    *others, kernels = torch.autograd.grad((expected * weight).sum(), leaves, allow_unused=True)
    for gradient, other in zip(mine, [*others, kernels.split(sizes)[1]], strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4)
