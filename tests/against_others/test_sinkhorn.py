"""Sinkhorn against sinkhorn-transformer: its causal class, and its sorting operator."""

import pytest
import torch

from cab import Pattern, Slot
from cab.ops.sorting import sinkhorn
from cab.plugins import registry

peer = pytest.importorskip("sinkhorn_transformer.sinkhorn_transformer")


@pytest.mark.parametrize("picks", [1, 2])
def test_causal_equals_theirs_in_the_heads_that_it_does_not_rotate_forward_and_backward(picks: int) -> None:
    torch.manual_seed(0)
    n, dim, block = 48, 8, 8
    theirs = peer.SinkhornCausalAttention(block, 2 * dim, dim, 2, n, n_top_buckets=picks, temperature=0.5).double()
    ours = registry.load("mechanism", "sinkhorn")(
        Slot(Pattern.CS, heads=1, dim=dim, max_len=n), block=block, picks=picks, temperature=0.5
    )
    ours = ours.double().eval()
    with torch.no_grad():
        ours.no_key.copy_(theirs.null_keys[:1])
        ours.no_value.copy_(theirs.null_values[:1])
    q, k, v = (torch.randn(2, 2, n, dim, dtype=torch.float64, requires_grad=True) for _ in range(3))
    expected = theirs(q, k, v)[:, :1]
    out = ours(q[:, :1], k[:, :1], v[:, :1])
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v)))


def test_the_sorting_equals_their_operator_with_rows_and_columns_exchanged() -> None:
    torch.manual_seed(0)
    scores, all_count = torch.randn(3, 1, 6, 6), torch.ones(1, 6, dtype=torch.bool)
    ours = sinkhorn(scores, all_count, all_count, 8)[:, 0]
    torch.testing.assert_close(ours, peer.sinkhorn_sorting_operator(scores[:, 0].mT, 8).mT)
