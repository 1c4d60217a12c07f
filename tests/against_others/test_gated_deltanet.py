"""Gated DeltaNet, its layer included, against transformers' Qwen3-Next."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.streaming import stream
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, DIM, VALUE, WIDTH = 3, 8, 6, 20


@pytest.mark.parametrize("n", [1, 37, 130])
def test_equals_transformers_forward_and_backward(n: int) -> None:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    torch.manual_seed(0)
    config = Qwen3NextConfig(
        hidden_size=WIDTH,
        num_hidden_layers=1,
        linear_num_key_heads=HEADS,
        linear_num_value_heads=HEADS,
        linear_key_head_dim=DIM,
        linear_value_head_dim=VALUE,
        linear_conv_kernel_dim=4,
        layer_types=["linear_attention"],
    )
    theirs = Qwen3NextGatedDeltaNet(config, 0)
    slot = Slot(Pattern.CS, HEADS, DIM, n, value_dim=VALUE, width=WIDTH)
    ours: Any = registry.load("mechanism", "gated_deltanet")(slot, chunk=16)
    # they project to [q k v gate] and to [beta decay] of each head, and convolve q, k and v at once
    *project, gate = theirs.in_proj_qkvz.weight.unflatten(0, (HEADS, -1)).split([DIM, DIM, VALUE, VALUE], 1)
    beta, decay = theirs.in_proj_ba.weight.unflatten(0, (HEADS, -1)).unbind(1)
    with torch.no_grad():
        ours.of_beta.weight.copy_(beta)
        ours.of_decay.weight.copy_(decay)
        ours.log_rate.copy_(theirs.A_log)
        ours.shift.copy_(theirs.dt_bias.normal_())
        ours.norm.gate.weight.copy_(gate.flatten(0, 1))
        ours.norm.scale.copy_(theirs.norm.weight.uniform_(0.5, 2))
        kernels = theirs.conv1d.weight.split([HEADS * DIM, HEADS * DIM, HEADS * VALUE])
        for conv, kernel in zip(ours.convs, kernels, strict=True):
            conv.kernel.copy_(kernel)
    x = torch.randn(2, n, WIDTH, requires_grad=True)
    call = {name: torch.einsum("biw,hdw->bhid", x, weight) for name, weight in zip("qkv", project, strict=True)}
    call |= {"x": x, "y": x}

    def layer(out: torch.Tensor) -> torch.Tensor:
        return theirs.out_proj(out.transpose(1, 2).flatten(2))

    out, expected = layer(ours(**call)), theirs(x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(stream(ours, call, n // 2)), expected, rtol=1e-4, atol=1e-5)
    weight = torch.randn(out.shape)
    mine = torch.autograd.grad((out * weight).sum(), [x, theirs.in_proj_qkvz.weight, ours.log_rate, ours.shift])
    leaves = [x, theirs.in_proj_qkvz.weight, theirs.A_log, theirs.dt_bias]
    others = torch.autograd.grad((expected * weight).sum(), leaves)
    of_gate = 2 * DIM + VALUE  # rows of each head's gate, which ours has a copy of
    mine[1].unflatten(0, (HEADS, -1))[:, of_gate:] = others[1].unflatten(0, (HEADS, -1))[:, of_gate:]
    for gradient, other in zip(mine, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4)
