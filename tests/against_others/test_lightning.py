"""Lightning attention, its layer included, against transformers' MiniMaxLightningAttention."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

pytest.importorskip("transformers")


@pytest.mark.parametrize("n", [37, 64])
@pytest.mark.parametrize("backend", ["eager", "lightning1"])
def test_equals_transformers_forward_and_backward(n: int, backend: str) -> None:
    from transformers import MiniMaxConfig
    from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

    torch.manual_seed(0)
    heads, dim, width = 2, 8, 20
    config = MiniMaxConfig(
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=dim,
        num_hidden_layers=3,
        block_size=16,
        hidden_act="silu",
        layer_types=["linear_attention"] * 3,
    )
    theirs = MiniMaxLightningAttention(config, 0)
    slot = Slot(Pattern.CS, heads=heads, dim=dim, max_len=n, width=width, layer=0, layers=3)
    ours: Any = registry.load("mechanism", "lightning")(slot, chunk=16).use(backend)
    ours.gate[0].weight, ours.scale = theirs.output_gate.weight, theirs.norm.weight
    x = torch.randn(2, n, width, requires_grad=True)
    q, k, v = theirs.qkv_proj(x).unflatten(-1, (heads, 3 * dim)).transpose(1, 2).split(dim, -1)
    outs = theirs.out_proj(ours(q, k, v, x=x).transpose(1, 2).flatten(2)), theirs(x, None, None)[0]
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
    weight = torch.randn(outs[0].shape)
    leaves = [x, *theirs.parameters()]
    for mine, other in zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in outs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=2e-5)
