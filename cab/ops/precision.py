"""What autocast must leave alone: in it, a product of matrices is rounded to 16 bits however wide they are."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def full_precision(device_type: str) -> AbstractContextManager[Any, None]:
    """Switch autocast off inside; widening to float32 before a product is of no use without."""
    if device_type == "meta":  # has no autocast
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
