"""Position encodings. Learned and sinusoidal ones are added to the tokens; rotary ones are the attention layer's."""

import torch
from torch import Tensor, nn

from cab.errors import unknown

POSITIONS = ("learned", "none", "rotary", "sinusoidal")
ROTARY_BASE = 10_000.0  # Su et al., arXiv 2104.09864, section 3.3


def position_encoding(kind: str, max_len: int, width: int) -> nn.Module:
    """Return the module that adds encodings of `kind` to tokens (batch, n, width): nothing for rotary and none.

    It takes the tokens and the position of the first of them, 0 by default.
    """
    if kind not in POSITIONS:
        raise ValueError(str(unknown("positions", kind, POSITIONS)))
    if kind == "learned":
        return LearnedPositions(max_len, width)
    return SinusoidalPositions(max_len, width) if kind == "sinusoidal" else NoPositions()


class NoPositions(nn.Module):
    """Adds nothing."""

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        return x


class LearnedPositions(nn.Module):
    """Adds one learned vector for each position, drawn from N(0, 0.02²)."""

    def __init__(self, max_len: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_len, width)  # an embedding, so that the optimiser does not decay it
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        return x + self.embedding.weight[start : start + x.shape[1]]


class SinusoidalPositions(nn.Module):
    """Adds sines in even channels and cosines in odd ones (Vaswani et al., arXiv 1706.03762, section 3.5).

    Token i has the position `rate` * i.
    """

    table: Tensor  # (max_len, width)

    def __init__(self, max_len: int, width: int, rate: float = 1.0) -> None:
        super().__init__()
        position = rate * torch.arange(max_len, dtype=torch.float32)[:, None]
        frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        table = torch.zeros(max_len, width)
        table[:, 0::2] = (position * frequency).sin()
        table[:, 1::2] = (position * frequency[: width // 2]).cos()
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        return x + self.table[start : start + x.shape[1]].to(x.dtype)
