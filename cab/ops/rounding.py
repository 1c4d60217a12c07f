"""Tensors rounded to numbers of 8 and 4 bits, simulated in floating point."""

import torch
from torch import Tensor

from cab.ops.prefix import chunked

LARGEST = {"int8": 127, "int4": 7, "fp8": 448}  # number of each format; fp8 is E4M3


def rounded(t: Tensor, form: str, tokens: int = 1) -> Tensor:
    """Round t (batch, heads, n, size) to a format of `LARGEST`, with a scale for each block of `tokens` tokens.

    The scale makes the largest entry of the block the largest number of the format. Integers round halves away from
    zero, FP8 to even. `exact` returns t. The gradient passes unchanged (straight-through).
    """
    if form == "exact":
        return t
    blocks = chunked(t.detach(), tokens)
    scale = (blocks.abs().amax((3, 4), keepdim=True) / LARGEST[form]).clamp(min=1e-30)
    units = blocks / scale
    if form == "fp8":
        units = units.to(torch.float8_e4m3fn).to(t.dtype)
    else:
        units = (units.abs() + 0.5).floor() * units.sign()
    return t + ((units * scale).flatten(2, 3)[:, :, : t.shape[2]] - t).detach()
