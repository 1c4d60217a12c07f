"""Our mechanisms beside independent implementations: time and peak memory, forward, and forward with backward.

    .venv-parity/bin/python benchmarks/mechanisms.py [NAME ...] [--lengths 1024 4096] [--patterns NS CS] [--seconds 6]
    .venv-parity-fla/bin/python benchmarks/mechanisms.py

Batch 2, 4 heads of 64; ours by `backend=sdpa` where a mechanism has it, else eager. Times are medians of runs of the
two in turn, in one process with the allocator pinned, and a ratio is the median over neighbouring runs, which a drift
of the machine meets alike; memory is the most bytes held at once, by the profiler's events, in a pass of its own. A
ratio above 1 is in our favour. On a machine that others use, `--clock cpu --threads 1` counts
the processor's time in place of the wall's.
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
# bytes; the profiler of a loop over tokens would take all
ROOM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
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
    """Return the median times of two calls that run in turn, and the median of theirs over ours."""

    def seconds(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return clock() - start

    one(), other()
    ours: list[float] = []
    theirs: list[float] = []
    end = time.perf_counter() + budget
    while len(ours) < LEAST or (time.perf_counter() < end and len(ours) < MOST):
        ours.append(seconds(one))
        theirs.append(seconds(other))
    return median(ours), median(theirs), median(b / a for a, b in zip(ours, theirs, strict=True))


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
        ratios += [ratio] * contest.same_function
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
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
    warnings.simplefilter("ignore")
    print(f"{asked.threads} threads, allocator {'pinned' if PINNED else 'not pinned'}, torch {torch.__version__}")
    print("mechanism        pattern  n pass                 ours ms theirs ms   ratio  ours MiB   theirs  peer")
    ratios: list[float] = []
    for contest in contests(asked.mechanisms, asked.patterns):
        for n in asked.lengths:
            ratios += compare(contest, n, asked.seconds, CLOCKS[asked.clock])
    if ratios:
        print(f"{len(ratios)} ratios, geometric mean {prod(ratios) ** (1 / len(ratios)):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
