"""Multi-head latent attention, its layer included, against transformers' DeepSeek-V2-Lite and -V3 attention."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.streaming import stream
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, PLAIN, ROTATED, VALUE, RANK, WIDTH = 2, 6, 4, 5, 7, 20


@pytest.mark.parametrize("n", [1, 37])
@pytest.mark.parametrize("query_rank", [None, 11])
def test_equals_transformers_forward_and_backward(n: int, query_rank: int | None) -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

    torch.manual_seed(0)
    config = DeepseekV3Config(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        kv_lora_rank=RANK,
        q_lora_rank=query_rank,
        qk_nope_head_dim=PLAIN,
        qk_rope_head_dim=ROTATED,
        v_head_dim=VALUE,
        max_position_embeddings=64,
        attention_dropout=0.0,
        attn_implementation="eager",
    )
    theirs, embedding = DeepseekV3Attention(config, 0), DeepseekV3RotaryEmbedding(config)
    slot = Slot(Pattern.CS, HEADS, PLAIN + ROTATED, n, value_dim=VALUE, width=WIDTH, rotary=10000.0)
    ours: Any = registry.load("mechanism", "mla")(slot, rank=RANK, rotated=ROTATED)
    # they pair neighbouring channels, and put the rotated ones last
    halves = torch.cat([torch.arange(0, ROTATED, 2), torch.arange(1, ROTATED, 2)])
    with torch.no_grad():
        down = theirs.kv_a_proj_with_mqa.weight
        ours.down.weight.copy_(torch.cat([down[:RANK], down[RANK:][halves]]))
        ours.scale.copy_(theirs.kv_a_layernorm.weight.uniform_(0.5, 2))
        ours.up.weight.copy_(theirs.kv_b_proj.weight)
    x = torch.randn(2, n, WIDTH, requires_grad=True)

    def queries() -> torch.Tensor:
        if query_rank is None:
            q = theirs.q_proj(x)
        else:
            q = theirs.q_b_proj(theirs.q_a_layernorm(theirs.q_a_proj(x)))
        plain, turned = q.unflatten(-1, (HEADS, -1)).transpose(1, 2).split([PLAIN, ROTATED], -1)
        return torch.cat([turned[..., halves], plain], -1)

    def layer(out: torch.Tensor) -> torch.Tensor:
        return theirs.o_proj(out.transpose(1, 2).flatten(2))

    hidden = torch.full((n, n), -torch.inf).triu(1)
    expected = theirs(x, embedding(x, torch.arange(n).expand(2, n)), hidden[None, None])[0]
    out = layer(ours(queries(), y=x))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(
            layer(stream(ours, {"q": queries(), "y": x}, n // 2)), expected, rtol=1e-4, atol=1e-6
        )
    weight = torch.randn(out.shape)
    grads = [torch.autograd.grad((t * weight).sum(), [x, *theirs.o_proj.parameters()]) for t in (out, expected)]
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
