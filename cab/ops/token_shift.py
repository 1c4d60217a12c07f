"""Token shift: what stands before each token, which RWKV mixes into it (arXiv 2305.13048)."""

import torch
from torch import Tensor

from cab.ops.ragged import real_first


def token_shift(x: Tensor, before: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the unmasked token before each of x (batch, n, width), and the last one, (batch, 1, width).

    Before the first token stands `before` (batch, 1, width). mask is (batch, n); None masks nothing.
    """
    if mask is None:
        tokens = torch.cat([before, x], 1)
        return tokens[:, :-1], tokens[:, -1:]
    order, back = (index.unsqueeze(2).expand_as(x) for index in real_first(mask))
    tokens = torch.cat([before, x.gather(1, order)], 1)
    end = mask.sum(1)[:, None, None].expand_as(before)
    return tokens[:, :-1].gather(1, back), tokens.gather(1, end)
