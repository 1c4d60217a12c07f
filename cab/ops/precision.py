"""The dtype that is computed in: autocast switched off, and float32 where 16 bits do not suffice.

Inside autocast a matrix product is rounded to 16 bits, however wide its operands are.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def full_precision(device_type: str) -> AbstractContextManager[Any, None]:
    """Switch autocast off inside. Without it, widening the operands of a product to float32 has no effect."""
    if device_type == "meta":  # has no autocast
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def at_least_float32(t: Tensor) -> torch.dtype:
    """Return float32 for a 16-bit tensor, else the tensor's own dtype.

    16 bits are too coarse for sums of many tokens, which stop growing, and for exponents.
    """
    return torch.promote_types(t.dtype, torch.float32)


def widened(t: Tensor) -> Tensor:
    """Return t in float32 where it has 16 bits, else t itself."""
    return t.to(at_least_float32(t))


def wide_linear(linear: nn.Linear, t: Tensor) -> Tensor:
    """Apply a linear layer in float32 at least, inside autocast too: what is selected by its result is not rounded."""
    t = widened(t)
    with full_precision(t.device.type):
        return F.linear(t, linear.weight.to(t.dtype), None if linear.bias is None else linear.bias.to(t.dtype))


def product_dtype(t: Tensor) -> torch.dtype:
    """Return the dtype in which autocast, if it is on, computes matrix products of t."""
    device = t.device.type
    mixed = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if mixed else t.dtype
