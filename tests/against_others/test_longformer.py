"""Longformer against transformers' LongformerSelfAttention."""

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

pytest.importorskip("transformers")


@pytest.mark.parametrize("real", [64, 49])
def test_equals_transformers_with_global_tokens_forward_and_backward(real: int) -> None:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    torch.manual_seed(0)
    n, heads, dim, window, first = 64, 2, 8, 4, 3
    config = LongformerConfig(
        hidden_size=heads * dim,
        num_attention_heads=heads,
        attention_window=[2 * window],
        attention_probs_dropout_prob=0.0,
        num_hidden_layers=1,
    )
    theirs = LongformerSelfAttention(config, 0)
    ours = registry.load("mechanism", "longformer")(
        Slot(Pattern.NS, heads=heads, dim=dim, max_len=n), window=window, globals=first, block=8
    )
    pairs = ((ours.to_q, theirs.query_global), (ours.to_k, theirs.key_global), (ours.to_v, theirs.value_global))
    for mine, other in pairs:
        mine.load_state_dict(other.state_dict())
    x = torch.randn(2, n, heads * dim, requires_grad=True)
    mask = torch.arange(n) < torch.tensor([[n], [real]])
    is_global = (torch.arange(n) < first).expand(2, -1)
    signed = torch.where(is_global, 1.0, 0.0).masked_fill(~mask, -10000.0)  # their code of masked, local, global
    expected = theirs(
        x,
        attention_mask=signed,
        is_index_masked=~mask,
        is_index_global_attn=is_global,
        is_global_attn=True,
    )[0]
    q, k, v = (
        layer(x).unflatten(2, (heads, dim)).transpose(1, 2) for layer in (theirs.query, theirs.key, theirs.value)
    )
    out = ours(q, k, v, mask, x=x, y=x).transpose(1, 2).flatten(2)
    expected = expected.masked_fill(~mask.unsqueeze(2), 0.0)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    (gradient,) = torch.autograd.grad((out * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * weight).sum(), x)[0])
