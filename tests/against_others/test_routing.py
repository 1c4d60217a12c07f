"""Routing against routing-transformer's KmeansAttention."""

import pytest
import torch

from cab import Pattern, Slot
from cab.plugins import registry

peer = pytest.importorskip("routing_transformer.routing_transformer")


@pytest.mark.parametrize(("pattern", "n", "m"), [("NS", 64, 64), ("NS", 53, 53), ("NC", 64, 41), ("NC", 29, 64)])
def test_the_published_form_equals_routing_transformer_forward_and_backward(pattern: str, n: int, m: int) -> None:
    torch.manual_seed(0)
    slot = Slot(Pattern.of(pattern), heads=2, dim=8, max_len=64)
    ours = registry.load("mechanism", "routing_leaky")(slot, window=16).double().eval()
    theirs = peer.KmeansAttention(4, 16, 2, 8, receives_context=pattern == "NC").double().eval()
    theirs.kmeans.means.copy_(ours.centroids)
    theirs.kmeans.initted.fill_(True)
    q, k, v = (torch.randn(2, 2, length, 8, dtype=torch.float64, requires_grad=True) for length in (n, m, m))
    out, (expected, _) = ours(q, k, v), theirs(q, k, v)
    # theirs divides by a count with 1e-5 added
    torch.testing.assert_close(out, expected, rtol=1.1e-5, atol=0)
    weight = torch.randn_like(out)
    gradients = torch.autograd.grad((out * weight).sum(), (q, k, v))
    for mine, other in zip(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1.1e-5, atol=2e-5)


def test_in_training_the_centroids_follow_as_theirs_do() -> None:
    torch.manual_seed(0)
    ours = registry.load("mechanism", "routing_leaky")(
        Slot(Pattern.NS, heads=2, dim=8, max_len=64), window=16, decay=0.9, commitment=1.0
    )
    theirs = peer.Kmeans(2, 8, 4, ema_decay=0.9, commitment=1.0)
    theirs.means.copy_(ours.centroids)
    theirs.initted.fill_(True)
    q = torch.randn(2, 2, 64, 8)
    # theirs moves once, after all; with keys that are the queries ours moves twice towards the same
    _, loss = theirs(q, update_means=True)
    theirs.update()
    from cab.ops.clusters import commitment_loss, cosine_similarity, update_centroids

    cluster = cosine_similarity(q, ours.centroids).argmax(-1)
    torch.testing.assert_close(commitment_loss(q, ours.centroids, cluster, None), loss)
    update_centroids(ours.centroids, q, cluster, None, 0.9)
    torch.testing.assert_close(ours.centroids, theirs.means)
