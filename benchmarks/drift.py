"""Does this machine keep its speed? A product that fits into the cache is timed again and again, beside attention.

    python benchmarks/drift.py [--seconds 30]

One process with one thread and the allocator pinned runs both calls in turn. Each window of 0.1 s is reduced to the
median of each call. Printed are the spread of these medians, the correlation of the two calls, and the
autocorrelation of each. Where a product that reads no memory spreads by more than some 4 %, five processes of a tenth
of a second cannot give a latency to within 5 %, whatever is timed and however: the machine gives each process another
speed.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

from cab.instruments import allocator

PINNED = allocator.pin()  # before the first tensor

import numpy as np  # noqa: E402
import torch  # noqa: E402

from cab import Pattern, Slot  # noqa: E402
from cab.plugins import registry  # noqa: E402

WINDOW = 0.1  # seconds, about as long as a process of the latency meter samples


def windows(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Return the logarithm of each call's median time in each window."""
    medians: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        times: dict[str, list[float]] = {name: [] for name in calls}
        end_of_window = time.perf_counter() + WINDOW
        while time.perf_counter() < end_of_window:
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
        for name, of_call in times.items():
            medians[name].append(median(of_call))
    return {name: np.log(values) for name, values in medians.items()}


def main() -> None:
    """Print the spreads and correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    q, k, v = torch.randn(3, 1, 4, 256, 64).unbind()
    attention = registry.load("mechanism", "softmax")(Slot(Pattern.NS, heads=4, dim=64, max_len=256)).eval()
    square = torch.randn(128, 128)
    with torch.inference_mode():
        calls = {"product in cache": lambda: square @ square @ square, "softmax attention": lambda: attention(q, k, v)}
        windows(calls, 0.5)  # warm-up
        logs = windows(calls, seconds)
    print(f"1 thread, allocator {'pinned' if PINNED else 'not pinned'}, {seconds:g} s in windows of {WINDOW:g} s")
    for name, values in logs.items():
        low, high = np.exp(np.quantile(values, (0.05, 0.95)) - np.median(values)) - 1
        print(f"{name}: deviation {values.std(ddof=1):.1%}, {low:+.0%} to {high:+.0%} in nine of ten windows")
        by_lag = {lag * WINDOW: np.corrcoef(values[:-lag], values[lag:])[0, 1] for lag in (1, 5, 20)}
        print("  autocorrelation: " + ", ".join(f"{value:.2f} after {lag:g} s" for lag, value in by_lag.items()))
    one, other = logs.values()
    print(f"correlation of the two: {np.corrcoef(one, other)[0, 1]:.2f}")


if __name__ == "__main__":
    main()
