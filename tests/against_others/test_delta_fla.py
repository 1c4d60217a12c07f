"""The gated delta rule, and DeltaNet, against the plain functions of flash-linear-attention."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it wants a GPU, which its plain functions do not need
    pytest.importorskip("fla.ops.gated_delta_rule.naive")
    from fla.ops.delta_rule.naive import delta_rule_chunkwise, delta_rule_recurrence
    from fla.ops.gated_delta_rule.naive import naive_chunk_gated_delta_rule, naive_recurrent_gated_delta_rule

HEADS, DIM, WIDTH = 2, 8, 12


def tokens(n: int) -> list[Tensor]:
    """Return q, k, v and the layer's tokens."""
    torch.manual_seed(0)
    return [*(torch.randn(3, HEADS, n, DIM, requires_grad=True) for _ in "qkv"), torch.randn(3, n, WIDTH)]


def ours(**params: Any) -> Any:
    torch.manual_seed(1)
    slot = Slot(Pattern.CS, heads=HEADS, dim=DIM, max_len=128, width=WIDTH)
    return registry.load("mechanism", "gated_deltanet")(slot, chunk=16, **params)


def what_enters(mechanism: Any, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
    """Return queries and keys of length 1, and values, as the mechanism convolves them."""
    q, k, v = (F.silu(conv(t)) for conv, t in zip(mechanism.convs, (q, k, v), strict=True))
    return [F.normalize(q, dim=-1), F.normalize(k, dim=-1), v]


def same(mechanism: Any, q: Tensor, k: Tensor, v: Tensor, x: Tensor, theirs: Tensor) -> None:
    """Compare with their result (batch, heads, n, dim), before the norm."""
    expected, out = mechanism.norm(theirs, x), mechanism(q, k, v, x=x, y=x)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    weight, leaves = torch.randn(out.shape), [q, k, v, mechanism.of_beta.weight]
    gradients = (torch.autograd.grad((t * weight).sum(), leaves, retain_graph=True) for t in (out, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n", [37, 128])
def test_the_gated_delta_rule_equals_their_recurrence_and_their_chunks(n: int) -> None:
    mechanism, (q, k, v, x) = ours(), tokens(n)
    heads_last = [t.transpose(1, 2) for t in (*what_enters(mechanism, q, k, v), *mechanism._gates(x, None))]
    *qkv, beta, decay = (*heads_last[:3], heads_last[3].squeeze(-1), heads_last[4].squeeze(-1))
    same(mechanism, q, k, v, x, naive_recurrent_gated_delta_rule(*qkv, beta, decay)[0].transpose(1, 2))
    same(mechanism, q, k, v, x, naive_chunk_gated_delta_rule(*qkv, decay, beta)[0].transpose(1, 2))


@pytest.mark.parametrize("negative", [False, True])
def test_what_never_fades_is_deltanet(negative: bool) -> None:
    mechanism, (q, k, v, x) = ours(decay=False, negative=negative), tokens(128)
    entering, beta = what_enters(mechanism, q, k, v), mechanism._gates(x, None)[0].squeeze(-1)
    same(mechanism, q, k, v, x, delta_rule_recurrence(*entering, beta)[0])
    same(mechanism, q, k, v, x, delta_rule_chunkwise(*entering, beta, chunk_size=32)[0])
