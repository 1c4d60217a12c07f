"""Counted FLOPs of operations whose number is known."""

import math

import pytest
import torch
import torch.nn.functional as F

from cab.instruments.flop_counter import count_flops


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_counter_counts_what_is_known(device: str) -> None:
    a, b, x = (torch.randn(*shape, device=device) for shape in ((3, 4, 5), (3, 5, 6), (5,)))
    assert count_flops(lambda: a @ b) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: a[0] @ x) == 2 * 4 * 5
    assert count_flops(lambda: x @ x) == 2 * 5
    assert count_flops(lambda: torch.addmv(a[0, :, 0], a[0], x)) == 2 * 4 * 5
    assert count_flops(lambda: (a.softmax(-1) + a).cumsum(-1)) == 0
    # row i of 4 costs 2 i a column, on the left and on the right
    square = torch.randn(3, 4, 4, device=device)
    assert count_flops(lambda: torch.linalg.solve_triangular(square, a, upper=False)) == 2 * 3 * (1 + 2 + 3) * 5
    assert count_flops(lambda: torch.linalg.solve_triangular(square, a.mT, upper=True, left=False)) == 180
    signal = torch.randn(7, 64, device=device)
    assert count_flops(lambda: torch.fft.rfft(signal)) == 7 * 5 * 64 * 6
    assert count_flops(lambda: torch.fft.irfft(torch.fft.rfft(signal), n=64)) == 2 * 7 * 5 * 64 * 6
    assert count_flops(lambda: torch.fft.fft(signal)) == 7 * 5 * 64 * 6
    assert count_flops(lambda: torch.fft.fft2(signal)) == pytest.approx(5 * 448 * math.log2(448))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_the_counter_sees_sdpa_forward_and_backward(device: str, causal: bool, kv_heads: int) -> None:
    q = torch.randn(2, 4, 32, 8, device=device, requires_grad=True)
    k, v = (torch.randn(2, kv_heads, 32, 8, device=device, requires_grad=True) for _ in range(2))

    def forward() -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=kv_heads != 4)

    one_product = 2 * 2 * 4 * 32 * 32 * 8
    assert count_flops(forward) == 2 * one_product
    forward_and_backward = count_flops(lambda: torch.autograd.grad(forward().sum(), (q, k, v)))
    # the fused backward on the CPU computes the scores again: five products; the decomposed one has four
    assert forward_and_backward == (2 + (5 if device == "cpu" else 4)) * one_product
