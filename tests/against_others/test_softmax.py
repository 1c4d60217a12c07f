"""Softmax's options against transformers: the sinks of gpt-oss, ALiBi's slopes of Bloom."""

from types import SimpleNamespace

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

pytest.importorskip("transformers")


def test_sinks_are_those_of_gpt_oss_forward_and_backward() -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    torch.manual_seed(0)
    ours = registry.load("mechanism", "softmax")(Slot(Pattern.CS, heads=4, dim=8, max_len=33, kv_heads=2), sinks=True)
    torch.nn.init.normal_(ours.sink)
    q, k, v = (torch.randn(2, heads, 33, 8, requires_grad=True) for heads in (4, 2, 2))
    layer = SimpleNamespace(sinks=ours.sink.detach().clone().requires_grad_(), num_key_value_groups=2, training=False)
    mask = torch.full((33, 33), torch.finfo(torch.float32).min).triu(1)[None, None]
    theirs = eager_attention_forward(layer, q, k, v, mask, scaling=8**-0.5, dropout=0.0)[0].transpose(1, 2)
    out = ours(q, k, v)
    torch.testing.assert_close(out, theirs)
    weight = torch.randn_like(out)
    expected = torch.autograd.grad((theirs * weight).sum(), (q, k, v, layer.sinks))
    torch.testing.assert_close(torch.autograd.grad((out * weight).sum(), (q, k, v, ours.sink)), expected)


@pytest.mark.parametrize("heads", [2, 8, 12])
def test_alibi_is_that_of_bloom(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    torch.manual_seed(0)
    ours = registry.load("mechanism", "softmax")(Slot(Pattern.CS, heads=heads, dim=8, max_len=33), alibi=True)
    q, k, v = (torch.randn(1, heads, 33, 8) for _ in range(3))
    # Bloom adds slope j: in a causal row the same as -slope (i - j), since softmax drops what a row has in common
    bias = build_alibi_tensor(torch.ones(1, 33), heads, torch.float32)
    scores = q @ k.transpose(-1, -2) * 8**-0.5 + bias[None]
    scores = scores + torch.full((33, 33), -torch.inf).triu(1)
    torch.testing.assert_close(ours(q, k, v), scores.softmax(-1) @ v)
