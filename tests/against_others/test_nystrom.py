"""Nystromformer equals two independent implementations, one head of one sample where theirs mixes several."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cab import Mechanism, Pattern, Slot
from cab.plugins import registry

N, DIM, LANDMARKS = 60, 8, 6


def build(heads: int, **params: Any) -> Mechanism:
    slot = Slot(Pattern.NS, heads=heads, dim=DIM, max_len=N)
    return registry.load("mechanism", "nystrom")(slot, landmarks=LANDMARKS, **params)


def same(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for mine, their in zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-5)


def heads_of(t: Tensor, heads: int) -> Tensor:
    return t.unflatten(2, (heads, -1)).transpose(1, 2)


def merged(t: Tensor) -> Tensor:
    return t.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("conv", [0, 33])
def test_it_equals_nystrom_attention(conv: int) -> None:
    peers = pytest.importorskip("nystrom_attention")
    torch.manual_seed(0)
    theirs = peers.NystromAttention(
        dim=DIM, dim_head=DIM, heads=1, num_landmarks=LANDMARKS, residual=conv > 0, residual_conv_kernel=conv or 33
    )
    theirs.to_out = nn.Identity()
    ours = build(1, conv=conv)
    x = torch.randn(1, N, DIM, requires_grad=True)
    leaves = [x, *theirs.parameters()]
    if conv:
        ours.kernel = theirs.res_conv.weight
    q, k, v = (heads_of(t, 1) for t in theirs.to_qkv(x).chunk(3, dim=-1))
    same(merged(ours(q, k, v)), theirs(x), leaves)


def test_it_equals_transformers_nystromformer() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

    torch.manual_seed(0)
    config = transformers.NystromformerConfig(
        hidden_size=2 * DIM,
        num_attention_heads=2,
        num_landmarks=LANDMARKS,
        segment_means_seq_len=N,
        conv_kernel_size=65,
        attention_probs_dropout_prob=0.0,
    )
    theirs = NystromformerSelfAttention(config)
    theirs.init_option = "each"  # the default begins every head of every sample with one number
    ours = build(2, conv=65)
    ours.kernel = theirs.conv.weight
    x = torch.randn(3, N, 2 * DIM, requires_grad=True)
    leaves = [x, *theirs.parameters()]
    q, k, v = (heads_of(project(x), 2) for project in (theirs.query, theirs.key, theirs.value))
    same(merged(ours(q, k, v)), theirs(x)[0], leaves)
