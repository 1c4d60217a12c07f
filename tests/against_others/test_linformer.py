"""Linformer equals an independent implementation in NS, NC and CC, at odd lengths, with gradients."""

from typing import Any

import pytest
import torch
from torch import nn

from cab import Pattern, Slot
from cab.plugins import registry

peers = pytest.importorskip("linformer")

HEADS, DIM, RANK, MOST = 2, 8, 7, 40


@pytest.mark.parametrize("share", ["heads", "kv"])
@pytest.mark.parametrize(("pattern", "n", "m"), [("NS", 40, 40), ("NS", 33, 33), ("NC", 21, 37), ("CC", 37, 29)])
def test_it_equals_linformer(pattern: str, n: int, m: int, share: str) -> None:
    torch.manual_seed(0)
    theirs: Any = peers.LinformerSelfAttention(dim=HEADS * DIM, seq_len=MOST, k=RANK, heads=HEADS)
    theirs.to_out = nn.Identity()
    if share == "kv":
        theirs.proj_v = theirs.proj_k  # theirs would share keys with values too
    slot = Slot(Pattern.of(pattern), heads=HEADS, dim=DIM, max_len=MOST)
    ours = registry.load("mechanism", "linformer")(slot, rank=RANK, share=share)
    ours.project_k = theirs.proj_k
    if share == "heads":
        ours.project_v = theirs.proj_v
    x, y = torch.randn(3, n, HEADS * DIM, requires_grad=True), torch.randn(3, m, HEADS * DIM, requires_grad=True)
    source = x if pattern == "NS" else y
    q, k, v = (
        projected.unflatten(2, (HEADS, DIM)).transpose(1, 2)
        for projected in (theirs.to_q(x), theirs.to_k(source), theirs.to_v(source))
    )
    outs = ours(q, k, v).transpose(1, 2).flatten(2), theirs(x, None if pattern == "NS" else y)
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-5)
    weight = torch.randn(outs[0].shape)
    leaves = [x, *([] if pattern == "NS" else [y]), *theirs.parameters()]
    for mine, their in zip(*(torch.autograd.grad((out * weight).sum(), leaves) for out in outs), strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-3, atol=1e-5)
