"""How a model tells positions apart: added to the tokens (learned, sinusoidal) or left to the layer (rotary, none)."""

import torch
from torch import Tensor, nn

from cab.errors import unknown

POSITIONS = ("learned", "none", "rotary", "sinusoidal")
ROTARY_BASE = 10_000.0  # Su et al., arXiv 2104.09864, section 3.3


def added(kind: str, max_len: int, width: int) -> nn.Module:
    """Return the module that adds positions to tokens (batch, n, width); rotary ones are the layer's to add."""
    if kind not in POSITIONS:
        raise ValueError(str(unknown("positions", kind, POSITIONS)))
    if kind == "learned":
        return Learned(max_len, width)
    return Sinusoidal(max_len, width) if kind == "sinusoidal" else nn.Identity()


class Learned(nn.Module):
    """One vector a position, drawn from N(0, 0.02)."""

    def __init__(self, max_len: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_len, width)  # an embedding, so that the optimiser leaves it undecayed
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.embedding.weight[: x.shape[1]]


class Sinusoidal(nn.Module):
    """Sines and cosines in turn (Vaswani et al., arXiv 1706.03762, section 3.5)."""

    table: Tensor

    def __init__(self, max_len: int, width: int) -> None:
        super().__init__()
        position = torch.arange(max_len, dtype=torch.float32)[:, None]
        frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        table = torch.zeros(max_len, width)
        table[:, 0::2] = (position * frequency).sin()
        table[:, 1::2] = (position * frequency[: width // 2]).cos()
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]].to(x.dtype)
