"""What a device can do at most: products of matrices for each dtype, and copying. Imports torch."""

import time
from collections.abc import Callable
from typing import Any

import torch

from cab.contracts.messages import PeakAnswer

SIZES = (512, 1024, 2048, 4096, 8192)
COPIED = 256 << 20  # bytes of the copied buffer: more than any cache holds but the largest servers'
SECONDS = 1.0  # for each size
SLOW = 1.0  # seconds of one product; products that would take longer are not tried


def peaks(device: str, threads: int, dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16")) -> PeakAnswer:
    """Return the best rate of a product per dtype in FLOP/s, and of a copy in bytes read and written a second."""
    torch.set_num_threads(threads)
    return PeakAnswer({name: matmul_rate(getattr(torch, name), device) for name in dtypes}, copy_rate(device))


def matmul_rate(dtype: torch.dtype, device: str, sizes: tuple[int, ...] = SIZES, seconds: float = SECONDS) -> float:
    """Return the best FLOP/s over square products, each of random numbers (zeros would let a GPU clock higher)."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        fastest = _fastest(lambda a=a, b=b: a @ b, device, seconds)  # type: ignore[misc]
        best = max(best, 2 * size**3 / fastest)
        if fastest > SLOW / 8:  # the next size takes eight times as long
            break
    return best


def copy_rate(device: str, size: int = COPIED, seconds: float = SECONDS) -> float:
    """Return the best rate of a large copy: bytes read and bytes written."""
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.zeros_like(source)  # written, so that its pages are there
    return 2 * size / _fastest(lambda: target.copy_(source), device, seconds)


def _fastest(call: Callable[[], Any], device: str, seconds: float) -> float:
    wait: Callable[[], Any] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    call()
    wait()
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < seconds or best == float("inf"):
        before = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - before)
    return best
