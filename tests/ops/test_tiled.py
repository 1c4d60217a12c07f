"""Softmax a tile of keys at a time: no tile size changes it, and its log-sums have a gradient."""

import torch
from torch import Tensor

from cab.ops.tiled import tiled_softmax


def drawn(batch: int = 2, heads: int = 2, n: int = 21, m: int = 21) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.randn(batch, heads, length, 8, generator=generator) for length in (n, m, m))


def test_tiles_of_any_size_give_the_same() -> None:
    q, k, v = (t.double() for t in drawn())
    whole, whole_sums = tiled_softmax(q, k, v, True, 64)
    for tile in (1, 2, 5, 20, 21):
        out, sums = tiled_softmax(q, k, v, True, tile)
        torch.testing.assert_close((out, sums), (whole, whole_sums), rtol=0, atol=1e-12)


def test_the_log_sums_of_tiles_have_the_gradient_of_logsumexp() -> None:
    q, k, v = (t.double().requires_grad_() for t in drawn(n=9, m=9))
    assert torch.autograd.gradcheck(lambda *qkv: tiled_softmax(*qkv, True, 4), (q, k, v), fast_mode=True)
