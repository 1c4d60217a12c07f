"""Layer norm of heads, with separate parameters for each head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadNorm(nn.Module):
    """Layer norm over the last axis of (batch, heads, length, size), with a scale and a shift (size) for each head."""

    def __init__(self, heads: int, size: int, shift: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(heads, 1, size))
        self.shift = nn.Parameter(torch.zeros(heads, 1, size)) if shift else None

    def forward(self, t: Tensor) -> Tensor:
        """Normalise t (batch, heads, length, size)."""
        out = F.layer_norm(t, t.shape[-1:]) * self.scale
        return out if self.shift is None else out + self.shift
