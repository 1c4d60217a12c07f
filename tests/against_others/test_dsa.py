"""DeepSeek sparse attention against transformers' DeepSeek-V3.2: the indexer's choice, and the attention around it."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.ops.softmax import visible
from cab.ops.top_k import top_k_mask
from cab.plugins import registry

pytest.importorskip("transformers")

HEADS, PLAIN, ROTATED, VALUE, WIDTH, N = 2, 6, 4, 5, 20, 37
INDEX_HEADS, INDEX_SIZE, SELECTED = 8, 8, 5


def theirs_and_ours(rotary: float | None) -> tuple[Any, Any, Any]:
    """Return their attention, their rotary embedding, and a mechanism with the weights of their indexer.

    Their indexer's queries come from a latent as wide as the tokens, ours from the tokens. Of equal scores they take
    any, we the first. Many scores are 0, where no head's product is positive: weights above 0 and many heads leave no
    such score among the largest.
    """
    from transformers.models.deepseek_v32.configuration_deepseek_v32 import DeepseekV32Config
    from transformers.models.deepseek_v32.modeling_deepseek_v32 import (
        DeepseekV32Attention,
        DeepseekV32RotaryEmbedding,
    )

    torch.manual_seed(0)
    config = DeepseekV32Config(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        kv_lora_rank=7,
        q_lora_rank=WIDTH,
        qk_nope_head_dim=PLAIN,
        qk_rope_head_dim=ROTATED,
        v_head_dim=VALUE,
        index_topk=SELECTED,
        index_head_dim=INDEX_SIZE,
        index_n_heads=INDEX_HEADS,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    theirs = DeepseekV32Attention(config, 0).eval()
    slot = Slot(Pattern.CS, HEADS, PLAIN + ROTATED, N, value_dim=VALUE, width=WIDTH, rotary=rotary)
    ours: Any = registry.load("mechanism", "dsa")(
        slot, selected=SELECTED, index_heads=INDEX_HEADS, index_size=INDEX_SIZE
    ).eval()
    with torch.no_grad():
        ours.of_query.weight.copy_(theirs.indexer.wq_b.weight)
        ours.of_key.weight.copy_(theirs.indexer.wk.weight)
        ours.of_weight.weight.copy_(theirs.indexer.weights_proj.weight.abs_())
        ours.norm.weight.copy_(theirs.indexer.k_norm.weight.uniform_(0.5, 2))
        ours.norm.bias.copy_(theirs.indexer.k_norm.bias.normal_())
    return theirs, DeepseekV32RotaryEmbedding(config), ours


def test_the_indexer_chooses_the_same_keys() -> None:
    theirs, embedding, ours = theirs_and_ours(rotary=10000.0)
    x, place = torch.randn(2, N, WIDTH).abs(), torch.arange(N)
    hidden = torch.full((2, N, N), -torch.inf).triu(1)
    keys = theirs.indexer(x, x, embedding(x, place.expand(2, N)), hidden, place)
    expected = torch.zeros(2, N, N).bool().scatter(-1, keys.long(), True).tril()
    index = ours.index(x, place, ours.index_keys(x, place))
    assert torch.equal(top_k_mask(index, ours.selected, visible(Pattern.CS, N, N, None, x.device))[:, 0], expected)
    assert expected.sum(-1).tolist() == [[min(i + 1, SELECTED) for i in range(N)]] * 2


def test_attention_equals_theirs_forward_and_backward_where_nothing_is_rotated() -> None:
    theirs, _, ours = theirs_and_ours(rotary=None)
    theirs.q_a_layernorm, theirs.q_a_proj = torch.nn.Identity(), torch.nn.Identity()  # so that the latent is x
    x = torch.randn(2, N, WIDTH).abs().requires_grad_()
    still = torch.ones(2, N, ROTATED), torch.zeros(2, N, ROTATED)
    expected = theirs(x, still, torch.full((2, 1, N, N), -torch.inf).triu(1))[0]
    q = theirs.q_b_proj(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    latent, shared = theirs.kv_a_proj_with_mqa(x).split([7, ROTATED], -1)
    k, v = theirs.expand_kv(theirs.kv_a_layernorm(latent).unsqueeze(1), shared.unsqueeze(1))
    out = theirs.o_proj(ours(q, k, v, x=x, y=x).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-6)
    weight, leaves = torch.randn(out.shape), [x, theirs.q_b_proj.weight, theirs.kv_b_proj.weight]
    gradients = (torch.autograd.grad((t * weight).sum(), leaves, retain_graph=True) for t in (out, expected))
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
