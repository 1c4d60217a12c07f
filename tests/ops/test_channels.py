"""Heads as channels of one token, and back."""

import torch

from cab.ops.channels import channels_of, heads_of


def test_the_channels_of_a_head_stay_together() -> None:
    t = torch.arange(2 * 3 * 5 * 4).view(2, 3, 5, 4)
    merged = channels_of(t)
    assert merged.shape == (2, 5, 12)
    assert torch.equal(merged[1, 2, 4:8], t[1, 1, 2])
    assert torch.equal(heads_of(merged, 3), t)
