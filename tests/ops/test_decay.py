"""Linear attention with decay is gated linear attention with one constant gate for all channels."""

import torch
from torch import Tensor

from cab.ops.decay import decayed_linear
from cab.ops.gated import gated_linear


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def qkv(n: int, m: int | None = None, dim: int = 8) -> list[Tensor]:
    return [normal(2, 2, length, dim, seed=seed) for seed, length in enumerate((n, m or n, m or n))]


def test_one_gate_for_all_channels_and_tokens_is_decay() -> None:
    q, k, v = qkv(37)
    rate = torch.tensor([0.3, 0.01], dtype=torch.float64)
    gate = -rate.view(1, 2, 1, 1).expand_as(k)
    ours = gated_linear(q, k, v, gate, k.new_zeros(2, 2, 8, 8), 16)[0]
    torch.testing.assert_close(ours, decayed_linear(q, k, v, rate, 4))
