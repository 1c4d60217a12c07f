"""The mixing of a token with one near it: the shares, and how they begin in the first and the last layer."""

import torch
from torch import nn

from cab import Pattern, Slot
from cab.ops.time_mixing import mixed_maps, time_mixing


def test_a_share_of_one_maps_the_token_and_of_zero_the_one_near_it() -> None:
    y, near = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).unbind()
    shares = torch.tensor([1.0, 0.0, 0.5]).unsqueeze(1).expand(3, 4)
    r, k, v = mixed_maps(y, near, shares, [nn.Identity()] * 3, heads=2)
    for mixed, expected in ((r, y), (k, near), (v, (y + near) / 2)):
        torch.testing.assert_close(mixed.transpose(1, 2).flatten(2), expected)


def test_shares_begin_as_the_layer_says() -> None:
    first, last = (
        time_mixing(Slot(Pattern.CS, heads=2, dim=4, max_len=8, width=8, layer=layer, layers=4))[0].detach()
        for layer in (0, 3)
    )
    channel = torch.arange(8) / 8
    torch.testing.assert_close(first, torch.stack([channel**0.5, channel, channel]))
    torch.testing.assert_close(last, torch.stack([channel**0.125, channel**0.25, channel**0.25 + 0.3]))
