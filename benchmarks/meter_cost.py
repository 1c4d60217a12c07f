"""What a number costs: seconds of a fresh process for each meter, on cases of less and of more than a millisecond.

    python benchmarks/meter_cost.py

Each process is forked from one that has imported everything, as `cab run` does it, and sets up and checks its case
before it measures. Prints medians over cases, on one thread.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median

import torch
import torch.profiler
import torch.utils.flop_counter  # noqa: F401
from torch import _dynamo  # noqa: F401

from cab.contracts.case import Case
from cab.instruments import allocator
from cab.plugins import registry
from cab.worker.workload import build

LENGTHS = (64, 1024)
MECHANISMS, PATTERNS, PASSES = ("softmax", "linear", "none"), ("NS", "CS", "NC", "CC"), ("forward",)
BASE = Case(
    mechanism="softmax",
    params={},
    pattern="NS",
    task="speed",
    task_params={},
    n=64,
    m=64,
    batch=2,
    heads=4,
    dim=64,
    dtype="float32",
    device="cpu",
    backend="eager",
    level="attend",
    pass_="forward",
    seed=0,
    scale="quick",
)


def seconds(case: Case, meter_name: str) -> float:
    """Return the seconds of one process, from its fork to its end."""
    meter = registry.load("meter", meter_name)()
    classes = [registry.load("task", case.task), *(registry.load("mechanism", m) for m in (case.mechanism, "softmax"))]
    start = time.perf_counter()
    child = os.fork()
    if not child:
        code = 1
        try:
            if meter.pinned_allocator:
                allocator.pin()
            torch.set_num_threads(1)
            workload = build(case, *classes, folder=Path())
            if meter.environment:
                workload.check()
            meter.measure(workload, case)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{case.title}: the process failed")
    return time.perf_counter() - start


def cases(n: int) -> Iterable[Case]:
    """Yield every mechanism under every pattern and pass at one length."""
    for mechanism, pattern, pass_ in product(MECHANISMS, PATTERNS, PASSES):
        yield replace(BASE, mechanism=mechanism, pattern=pattern, pass_=pass_, n=n, m=n)


def main() -> None:
    """Print the cost of each meter at each length."""
    for n, meter in product(LENGTHS, ("latency", "memory", "flops", "parameters")):
        costs = [seconds(case, meter) for case in cases(n)]
        print(f"n={n:<6} {meter:11} median {median(costs):.3f} s, largest {max(costs):.3f} s, {len(costs)} processes")


if __name__ == "__main__":
    main()
