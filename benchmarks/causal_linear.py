"""Causal `linear` against causal `softmax` through SDPA: time of forward with backward, and growth of peak memory in n.

    python benchmarks/causal_linear.py

Prints medians of interleaved runs on one thread. Peak memory is the running maximum of the profiler's memory events.
"""

import statistics
import time

import numpy as np
import torch
from cab.mechanisms.linear import Linear
from cab.mechanisms.softmax import Softmax
from torch.profiler import ProfilerActivity, profile

from cab import Mechanism, Pattern, Slot

HEADS, DIM, ROUNDS = 4, 64, 7


def draw(n: int) -> list[torch.Tensor]:
    """Return q, k and v, each (1, heads, n, dim)."""
    return [torch.randn(1, HEADS, n, DIM, requires_grad=True) for _ in range(3)]


def forward_backward(mechanism: Mechanism, qkv: list[torch.Tensor]) -> None:
    """Run forward and backward once."""
    torch.autograd.grad(mechanism(*qkv).sum(), qkv)


def seconds(mechanism: Mechanism, qkv: list[torch.Tensor]) -> float:
    """Return the seconds of one forward with backward."""
    start = time.perf_counter()
    forward_backward(mechanism, qkv)
    return time.perf_counter() - start


def peak_bytes(mechanism: Mechanism, n: int) -> int:
    """Return the peak of the bytes allocated during a forward with backward, beside its inputs."""
    qkv = draw(n)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        forward_backward(mechanism, qkv)
    allocated = peak = 0
    events = record.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def main() -> None:
    """Print the ratio of the medians at n = 8,192, and the exponent of peak memory from n = 1,024 to 16,384."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    slot = Slot(Pattern.CS, heads=HEADS, dim=DIM, max_len=16384)
    linear, softmax = Linear(slot), Softmax(slot).use("sdpa")
    qkv = draw(8192)
    for mechanism in (linear, softmax):
        forward_backward(mechanism, qkv)
    times: dict[str, list[float]] = {"linear": [], "softmax": []}
    for _ in range(ROUNDS):
        times["linear"].append(seconds(linear, qkv))
        times["softmax"].append(seconds(softmax, qkv))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"n=8192, forward and backward, median of {ROUNDS}: " + ", ".join(f"{k} {v:.4f} s" for k, v in medians.items())
    )
    print(f"linear is {medians['softmax'] / medians['linear']:.1f} times as fast")
    lengths = [1024, 2048, 4096, 8192, 16384]
    peaks = [peak_bytes(linear, n) for n in lengths]
    exponent = np.polyfit(np.log(lengths), np.log(peaks), 1)[0]
    print("peak bytes: " + ", ".join(f"{n}: {p}" for n, p in zip(lengths, peaks, strict=True)))
    print(f"exponent of peak memory in n: {exponent:.3f}")


if __name__ == "__main__":
    main()
