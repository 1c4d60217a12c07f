"""What RWKV-4's time mixing (arXiv 2305.13048) and Vision-RWKV's spatial mixing (arXiv 2403.02308) share.

r, k and v are linear in a mixture of each token y_t and of y'_t, which stands near it:

    r, k, v = W (mu y_t + (1 - mu) y'_t), each with a mu and a W of its own
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cab.contracts.slot import Slot
from cab.ops.wkv import initial_bonus, initial_rates


def time_mixing(slot: Slot) -> tuple[nn.Parameter, nn.ModuleList, nn.Parameter, nn.Parameter]:
    """Return mu (3, width), the three maps W, the rate and the bonus of `cab.ops.wkv`, (heads, 1, value_dim) each.

    They begin as RWKV-4's do, which depends on the layer; the rate as the logarithm of w there. W has no bias.
    """
    width, channels, shape = slot.tokens, slot.heads * slot.values, (slot.heads, 1, -1)
    depth, rest = slot.layer / max(slot.layers - 1, 1), 1 - slot.layer / slot.layers
    share = (torch.arange(width) / width) ** rest
    mix = torch.stack([share**0.5, share, share + 0.3 * depth])  # of r, k and v
    maps = nn.ModuleList(nn.Linear(width, channels, bias=False) for _ in "rkv")
    rates, bonus = initial_rates(channels, depth), initial_bonus(channels)
    return nn.Parameter(mix), maps, nn.Parameter(rates.view(shape)), nn.Parameter(bonus.view(shape))


def mixed_maps(y: Tensor, near: Tensor, mix: Tensor, maps: Iterable[nn.Module], heads: int) -> list[Tensor]:
    """Return r, k and v, (batch, heads, n, value_dim) each, of tokens and of what is mixed in, (batch, n, width)."""
    mixed = (torch.lerp(near, y, share.to(y.dtype)) for share in mix)
    projected = (each(t) for t, each in zip(mixed, maps, strict=True))
    return [torch.unflatten(t, 2, (heads, -1)).transpose(1, 2) for t in projected]
