"""The nats of a task are the logarithm of torchmetrics' perplexity."""

import pytest
import torch

from cab.backbones.labels import IGNORED, sum_nll

peers = pytest.importorskip("torchmetrics.functional.text")


def test_the_mean_of_the_nats_is_the_logarithm_of_their_perplexity() -> None:
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(4, 9, 11), torch.randint(11, (4, 9))
    labels[1, 5:] = IGNORED
    sums = sum_nll(logits, labels)  # (batch, 2): the sum and the count of each example
    total, count = sums.sum(0)
    expected = peers.perplexity(logits, labels, ignore_index=IGNORED)
    assert (total / count).exp().item() == pytest.approx(expected.item(), rel=1e-5)
