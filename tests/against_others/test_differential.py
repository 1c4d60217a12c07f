"""Differential attention against DiffLlama of transformers, whose heads p and p + heads / 2 are our head p."""

from typing import Any

import pytest
import torch

from cab import Pattern, Slot
from cab.attention.layer import AttentionLayer
from cab.plugins import registry

pytest.importorskip("transformers")
HEADS, HALF, N = 4, 6, 21


def both(layer: int, kv_heads: int, rotary: float) -> tuple[Any, AttentionLayer]:
    """Return DiffLlama's layer (twice as many heads of half the size), and ours with its weights."""
    from transformers import DiffLlamaConfig
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

    torch.manual_seed(0)
    config = DiffLlamaConfig(
        hidden_size=2 * HEADS * HALF,
        num_attention_heads=2 * HEADS,
        num_key_value_heads=2 * kv_heads,
        attention_bias=True,
        rms_norm_eps=1e-5,
        attn_implementation="eager",
    )
    theirs = DiffLlamaAttention(config, layer_idx=layer).double()
    slot = Slot(
        Pattern.CS, heads=HEADS, dim=2 * HALF, max_len=N, kv_heads=kv_heads, layer=layer, layers=8, rotary=rotary
    )
    ours = AttentionLayer(registry.load("mechanism", "differential")(slot)).double()
    for name, projection in ours.projections.items():
        for kind in ("weight", "bias"):
            of_theirs = getattr(getattr(theirs, f"{name}_proj"), kind)
            halves = of_theirs.unflatten(0, (2, -1, HALF))  # (half, head, channel, ...)
            getattr(projection, kind).data = halves.transpose(0, 1).flatten(0, 2).detach().clone()
    ours.out.weight.data, ours.out.bias.data = theirs.o_proj.weight.detach(), theirs.o_proj.bias.detach()
    lambdas = [theirs.lambda_q1, theirs.lambda_k1, theirs.lambda_q2, theirs.lambda_k2]
    ours.mechanism.vectors.data = torch.stack(lambdas).detach().clone()  # type: ignore[union-attr]
    return theirs, ours


def angles(base: float) -> tuple[torch.Tensor, torch.Tensor]:
    frequency = base ** (-torch.arange(HALF // 2, dtype=torch.float64) / (HALF // 2))
    angle = (torch.arange(N)[:, None] * frequency).repeat(1, 2)[None]
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_layer_equals_that_of_diffllama_forward_and_backward(layer: int, kv_heads: int, backend: str) -> None:
    theirs, ours = both(layer, kv_heads, 10000.0)
    ours.mechanism.use(backend)
    x = torch.randn(2, N, 2 * HEADS * HALF, dtype=torch.float64, requires_grad=True)
    mask = torch.full((N, N), torch.finfo(torch.float64).min, dtype=torch.float64).triu(1)[None, None]
    expected, out = theirs(x, angles(10000.0), mask)[0], ours(x)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-7)  # they compute lambda in float32
    weight = torch.randn_like(out)
    vectors = ours.mechanism.vectors
    gradients = torch.autograd.grad((out * weight).sum(), (x, vectors))
    lambdas = (theirs.lambda_q1, theirs.lambda_k1, theirs.lambda_q2, theirs.lambda_k2)
    of_x, *of_vectors = torch.autograd.grad((expected * weight).sum(), (x, *lambdas))
    torch.testing.assert_close(gradients, (of_x, torch.stack(of_vectors)), rtol=1e-5, atol=1e-6)
