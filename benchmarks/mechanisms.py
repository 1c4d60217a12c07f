"""Our mechanisms beside independent implementations: time and peak memory, forward, and forward with backward.

    .venv-parity/bin/python benchmarks/mechanisms.py [NAME ...] [--lengths 1024 4096] [--patterns NS CS] [--seconds 6]
    .venv-parity-fla/bin/python benchmarks/mechanisms.py

Batch 2, 4 heads of 64; ours by `backend=sdpa` where a mechanism has it, else eager. The two run in turn, in one process
with the allocator pinned. Times are medians; a ratio is the median over neighbouring runs, which a drift of the machine
meets alike, and above 1 it is in our favour. Memory is the peak of the profiler's memory events, in a pass of its own.
On a machine that others use, `--clock cpu --threads 1` counts the processor's time in place of the wall's.
"""

import argparse
import os
import resource
import time
import warnings
from collections.abc import Callable
from math import prod
from statistics import median

os.environ["KINETO_LOG_LEVEL"] = "99"  # before torch is loaded: the profiler would talk

from cab.instruments import allocator  # noqa: E402

PINNED = allocator.pin()  # before the first tensor

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peers import Contest, contests  # noqa: E402
from torch import Tensor  # noqa: E402

from cab.meters.memory import peak_allocated  # noqa: E402

LEAST, MOST = 3, 30  # runs of each
# bytes; the profiler of a loop over tokens would take all of the machine's
MEMORY_LIMIT = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PASSES = ("forward", "forward_backward")


def passes(call: Callable[[], Tensor], leaves: list[Tensor]) -> dict[str, Callable[[], object]]:
    """Return one pass of each kind."""
    with torch.no_grad():
        weight = torch.randn_like(call())

    def forward() -> Tensor:
        with torch.no_grad():
            return call()

    def forward_backward() -> object:
        return torch.autograd.grad(call(), leaves, weight)

    return {"forward": forward, "forward_backward": forward_backward}


def alternated(
    one: Callable[[], object], other: Callable[[], object], budget: float, clock: Callable[[], float]
) -> tuple[float, float, float]:
    """Return the median seconds of two calls that run in turn, and the median of the second's over the first's."""

    def seconds(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return clock() - start

    one(), other()
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + budget
    while len(times) < LEAST or (time.perf_counter() < end and len(times) < MOST):
        times.append((seconds(one), seconds(other)))
    ours, theirs = zip(*times, strict=True)
    return median(ours), median(theirs), median(b / a for a, b in times)


def _peak(call: Callable[[], object]) -> float:
    """Return a peer's peak; NaN where the profiler has no room for the events of its loop over tokens."""
    try:
        return float(peak_allocated(call))
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return float("nan")


def compare(contest: Contest, n: int, budget: float, clock: Callable[[], float]) -> list[float]:
    """Print one line for each pass; return the ratios of the times, none where the peer computes another function."""
    torch.manual_seed(0)
    np.random.seed(0)  # BigBird's
    one, other, leaves = contest.sides(contest.pattern, n)
    mine, theirs = passes(one, leaves), passes(other, leaves)
    ratios = []
    for name in PASSES:
        *times, ratio = alternated(mine[name], theirs[name], budget, clock)
        peaks = peak_allocated(mine[name]), _peak(theirs[name])
        aim = 0.97 if contest.same_kernel else 1.0
        misses = [what for what, missed in (("slower", ratio < aim), ("more memory", peaks[0] > peaks[1])) if missed]
        if not contest.same_function:
            misses = ["another function, not counted"]
        print(
            f"{contest.mechanism:16} {contest.pattern} {n:6} {name:17} {times[0] * 1e3:9.1f} {times[1] * 1e3:9.1f} "
            f"{ratio:7.2f}  {peaks[0] / 2**20:8.1f} {peaks[1] / 2**20:8.1f}  {contest.peer} {' and '.join(misses)}",
            flush=True,
        )
        if contest.same_function:
            ratios.append(ratio)
    return ratios


def main() -> None:
    """Print the table and the geometric mean of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mechanisms", nargs="*", help="all by default")
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024, 4096])
    parser.add_argument("--patterns", nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=6.0, help="for the runs of one pass; at least three of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    warnings.simplefilter("ignore")
    print(f"{options.threads} threads, allocator {'pinned' if PINNED else 'not pinned'}, torch {torch.__version__}")
    print("mechanism        pattern  n pass                 ours ms theirs ms   ratio  ours MiB   theirs  peer")
    ratios: list[float] = []
    for contest in contests(options.mechanisms, options.patterns):
        for n in options.lengths:
            ratios += compare(contest, n, options.seconds, CLOCKS[options.clock])
    if ratios:
        print(f"{len(ratios)} ratios, geometric mean {prod(ratios) ** (1 / len(ratios)):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
