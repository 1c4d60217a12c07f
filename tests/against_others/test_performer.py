"""Performer, and efficient attention, against performer-pytorch; its small constant is set to zero where ours is."""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cab import Pattern, Slot
from cab.plugins import registry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports are deprecated ones
    peer = pytest.importorskip("performer_pytorch.performer_pytorch")

HEADS, DIM, FEATURES = 2, 8, 21


def tokens(*lengths: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, HEADS, length, DIM, requires_grad=True) for length in lengths]


def ours(name: str, pattern: str, **params: Any) -> Any:
    torch.manual_seed(1)
    return registry.load("mechanism", name)(Slot(Pattern.of(pattern), heads=HEADS, dim=DIM, max_len=64), **params)


def same(mine: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    weight = torch.randn(mine.shape)
    for one, other in zip(*(torch.autograd.grad((t * weight).sum(), leaves) for t in (mine, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("pattern", "n", "m"), [("NS", 37, 37), ("NC", 21, 37), ("CC", 37, 29)])
def test_favor_equals_performer_pytorch(pattern: str, n: int, m: int) -> None:
    mechanism, (q, k, v) = ours("performer", pattern, features=FEATURES), tokens(n, m, m)
    kernel = partial(peer.softmax_kernel, projection_matrix=mechanism.directions, eps=0.0)
    theirs = peer.linear_attention(kernel(q, is_query=True), kernel(k, is_query=False), v)
    same(mechanism(q, k, v), theirs, [q, k, v])


@pytest.mark.parametrize("n", [37, 64])
def test_causal_favor_equals_performer_pytorch(n: int) -> None:
    mechanism, (q, k, v) = ours("performer", "CS", features=FEATURES, chunk=16), tokens(n, n, n)
    kernel = partial(peer.softmax_kernel, projection_matrix=mechanism.directions, eps=0.0)
    theirs = peer.causal_linear_attention_noncuda(kernel(q, is_query=True), kernel(k, is_query=False), v, 16, 0.0)
    same(mechanism(q, k, v), theirs, [q, k, v])


@pytest.mark.parametrize("pattern", ["NS", "CS"])
def test_generalised_attention_equals_performer_pytorch(pattern: str) -> None:
    mechanism, (q, k, v) = ours("performer", pattern, features=FEATURES, kernel="relu", chunk=16), tokens(37, 37, 37)
    theirs = peer.FastAttention(DIM, FEATURES, generalized_attention=True)
    theirs.projection_matrix.copy_(mechanism.directions)
    if pattern == "CS":
        theirs.causal, theirs.causal_linear_fn = True, partial(peer.causal_linear_attention_noncuda, eps=0.0)
    same(mechanism(q, k, v), theirs(q, k, v), [q, k, v])


@pytest.mark.parametrize(("pattern", "n", "m"), [("NS", 37, 37), ("NC", 21, 37), ("CC", 37, 29)])
def test_efficient_attention_equals_performer_pytorch_without_projection(pattern: str, n: int, m: int) -> None:
    q, k, v = tokens(n, m, m)
    same(ours("efficient", pattern)(q, k, v), peer.FastAttention(DIM, no_projection=True)(q, k, v), [q, k, v])


def test_linear_attention_equals_performer_pytorch_with_its_features() -> None:
    q, k, v = tokens(21, 37, 37)
    elu = torch.nn.functional.elu
    same(ours("linear", "NC")(q, k, v), peer.linear_attention(elu(q) + 1, elu(k) + 1, v), [q, k, v])
