"""Diagonal state spaces: sums over powers of complex numbers, by their kernel, in time that FFTs need.

z^l for l < length is a product of two short tables, z^(s a) z^b with l = s a + b: its sums are products of matrices,
and no (channels, states, length) table is written.
"""

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from cab.ops.precision import full_precision


def width(length: int) -> int:
    """Return s, the powers in the inner table: about the root of the length."""
    return max(isqrt(length - 1), 0) + 1


def kernel(weight: Tensor, exponent: Tensor, length: int) -> Tensor:
    """Return 2 Re sum over states of weight exp(l exponent), for l < length.

    weight is (..., channels, states), complex; exponent is (channels, states), its real part not positive.
    """
    inner = width(length)
    outer = -(-length // inner)
    coarse = weight.unsqueeze(-2) * _powers(exponent, outer, inner)  # (..., channels, outer, states)
    fine = _powers(exponent, inner)
    # the real part of a product, as one product of real matrices
    left, right = torch.cat([coarse.real, -coarse.imag], -1), torch.cat([fine.real, fine.imag], -1)
    with full_precision(weight.device.type):  # rounded, it would be no filter of many tokens, and FFTs take no 16 bits
        sums = left @ right.transpose(-1, -2)
    return 2 * sums.flatten(-2)[..., :length]


def kernel_flops(states: int, length: int) -> float:
    """Count what `kernel` executes for one channel."""
    inner = width(length)
    return 2.0 * 2 * states * -(-length // inner) * inner


def absorbed(u: Tensor, exponent: Tensor) -> Tensor:
    """Return sum over l of exp((length - 1 - l) exponent) u_l: u (batch, channels, length) to (·, channels, states)."""
    inner = width(u.shape[-1])
    outer = -(-u.shape[-1] // inner)
    u = torch.unflatten(F.pad(u.flip(-1), (0, outer * inner - u.shape[-1])), -1, (outer, inner))
    fine = _powers(exponent, inner)
    with full_precision(u.device.type):
        sums = torch.complex(u @ fine.real, u @ fine.imag)
    return (sums * _powers(exponent, outer, inner)).sum(-2)


def convolved(u: Tensor, kernels: Tensor, both: bool = False) -> Tensor:
    """Convolve u (batch, channels, n) with kernels (channels, n) by FFT; `both`: kernels (2, channels, n).

    The second kernel reads what comes after, from the next token on. Padding keeps the ends apart.
    """
    n = u.shape[-1]
    points = fft_points(n)
    whole = F.pad(kernels[0] if both else kernels, (0, points - n))
    if both:  # lag -1 - l stands at points - 1 - l
        whole = whole + F.pad(kernels[1].flip(-1), (points - n, 0))
    out: Tensor = torch.fft.irfft(torch.fft.rfft(u, points) * torch.fft.rfft(whole), points)
    return out[..., :n]


def fft_points(n: int) -> int:
    """Return the least number of points, at least 2 n, of the form 2^k, 3 2^k or 5 2^k: fast ones."""
    sizes = []
    for odd in (1, 3, 5):
        size = odd
        while size < 2 * n:
            size *= 2
        sizes.append(size)
    return min(sizes)


def _powers(exponent: Tensor, count: int, step: int = 1) -> Tensor:
    """exp(l step exponent) for l < count: (channels, count, states)."""
    times = torch.arange(count, device=exponent.device, dtype=exponent.real.dtype) * step
    angle, size = times.unsqueeze(-1) * exponent.imag.unsqueeze(-2), times.unsqueeze(-1) * exponent.real.unsqueeze(-2)
    return torch.polar(size.exp(), angle)
