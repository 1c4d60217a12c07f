"""Diagonal state space models: the convolution kernel, the state at the end of a sequence, convolution by FFT.

With the complex exponents z_n of a channel's states, kernel and state are products with the Vandermonde matrix of the
powers exp(l z_n), l < length (S4D, arXiv 2206.11893). That matrix is not written: exp(l z) = exp(s a z) exp(b z) for
l = s a + b with b < s, so two tables of about sqrt(length) powers suffice, and the sums are products of matrices.
"""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import full_precision


def _table_length(length: int) -> int:
    """Return s, the number of powers in the table of exp(b z): the square root of the length, rounded up."""
    return max(isqrt(length - 1), 0) + 1


def convolution_kernel(weight: Tensor, exponent: Tensor, length: int) -> Tensor:
    """Return 2 Re sum over states n of weight_n exp(l exponent_n) for l < length: (..., channels, length).

    weight is (..., channels, states) and exponent is (channels, states), both complex; the real part of the exponent is
    not positive.
    """
    inner = _table_length(length)
    outer = -(-length // inner)
    coarse = weight.unsqueeze(-2) * _powers(exponent, outer, inner)  # (..., channels, outer, states)
    fine = _powers(exponent, inner)
    # the real part of a complex product, as one product of real matrices
    left, right = torch.cat([coarse.real, -coarse.imag], -1), torch.cat([fine.real, fine.imag], -1)
    with full_precision(weight.device.type):  # 16 bits are too coarse for a long kernel, and FFTs refuse them
        kernel = left @ right.transpose(-1, -2)
    return 2 * kernel.flatten(-2)[..., :length]


def convolution_kernel_flops(states: int, length: int) -> float:
    """Count the FLOPs of `convolution_kernel` for one channel."""
    inner = _table_length(length)
    return 2.0 * 2 * states * -(-length // inner) * inner


def final_state(u: Tensor, exponent: Tensor) -> Tensor:
    """Return the state after the inputs u: sum over l of exp((length - 1 - l) exponent) u_l.

    u is (batch, channels, length), exponent is (channels, states), the result is (batch, channels, states), complex.
    """
    inner = _table_length(u.shape[-1])
    outer = -(-u.shape[-1] // inner)
    u = torch.unflatten(F.pad(u.flip(-1), (0, outer * inner - u.shape[-1])), -1, (outer, inner))
    fine = _powers(exponent, inner)
    with full_precision(u.device.type):
        sums = torch.complex(u @ fine.real, u @ fine.imag)
    return (sums * _powers(exponent, outer, inner)).sum(-2)


def fft_convolution(u: Tensor, kernels: Tensor, bidirectional: bool = False) -> Tensor:
    """Convolve u (batch, channels, n) with a kernel for each channel, (channels, n).

    If `bidirectional`, kernels is (2, channels, n), and the second one weighs the inputs after a token, beginning with
    the next. Zero padding keeps the two ends of the sequence apart.
    """
    n = u.shape[-1]
    points = fft_points(n)
    padded = F.pad(kernels[0] if bidirectional else kernels, (0, points - n))
    if bidirectional:  # the weight of the input l + 1 tokens ahead stands at points - 1 - l
        padded = padded + F.pad(kernels[1].flip(-1), (points - n, 0))
    out: Tensor = torch.fft.irfft(torch.fft.rfft(u, points) * torch.fft.rfft(padded), points)
    return out[..., :n]


def fft_points(n: int) -> int:
    """Return the least 2^k, 3 2^k or 5 2^k that is at least 2 n: numbers of points whose FFT is fast."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < 2 * n:
            size *= 2
        sizes.append(size)
    return min(sizes)


def _powers(exponent: Tensor, count: int, step: int = 1) -> Tensor:
    """Return exp(l step exponent) for l < count: (channels, count, states)."""
    steps = torch.arange(count, device=exponent.device, dtype=exponent.real.dtype) * step
    angle = steps.unsqueeze(-1) * exponent.imag.unsqueeze(-2)
    log_modulus = steps.unsqueeze(-1) * exponent.real.unsqueeze(-2)
    return torch.polar(log_modulus.exp(), angle)
