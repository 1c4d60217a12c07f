"""Timing processes as a run makes them, for `coverage.py` and `aa.py`. Not a benchmark itself."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from cab.contracts.case import Case
from cab.contracts.messages import MeasureAnswer, MeasureJob, Samples
from cab.contracts.meter import Reading
from cab.planning.plan import plan
from cab.plugins import registry
from cab.runner import locks
from cab.runner.fork_client import ForkClient

LATENCY, LATENCY_RATIO = "latency", "latency_ratio"  # a meter, and its one metric
METERS = {name: registry.load("meter", name)() for name in (LATENCY, LATENCY_RATIO)}
PROCESSES = METERS[LATENCY].processes  # of either


def cases(count: int, meter: str = LATENCY) -> list[Case]:
    """Return up to 20 cases: two mechanisms and two backends, patterns, passes and lengths, one thread."""
    common = ["task=speed", "threads=1", "batch=1", f"meters=[{meter}]"]
    common += ["baseline_backend=sdpa"] if meter == LATENCY_RATIO else []
    grid = [
        measurement.case
        for how, n, pass_ in product(
            (
                "mechanism=softmax pattern=NS,CS",
                "mechanism=softmax backend=sdpa pattern=NS",
                "mechanism=linear pattern=NS,CC",
            ),
            (128, 512),
            ("forward", "forward_backward"),
        )
        for measurement in plan([*how.split(), f"seq_len={n}", f"pass={pass_}", *common]).measurements
    ]
    return grid[:count]


@contextmanager
def measuring() -> Iterator[ForkClient]:
    """Lock the CPU for timing, and give a client of a fork server."""
    said: set[str] = set()

    def waiting(holders: str) -> None:
        if holders not in said:
            print(f"waiting for the CPU{holders}", file=sys.stderr)
        said.add(holders)

    with ForkClient() as client, locks.device("cpu", True, waiting):
        yield client


def process(client: ForkClient, case: Case, meter: str = LATENCY) -> dict[str, Any]:
    """Time a case in one fresh process, and return the samples."""
    job = MeasureJob(case, str(Path("data").absolute()), threads=1, meters=[meter], pinned=True)
    ending = client.run(job, 600.0, None)
    samples = ending.answer.meters[meter] if isinstance(ending.answer, MeasureAnswer) else ending.answer
    if not isinstance(samples, Samples):
        raise SystemExit(f"{case.title}: {samples or ending.output}")
    return samples.metrics[meter]


def reading(processes: list[dict[str, Any]], meter: str = LATENCY) -> Reading:
    """Return the value and interval of some processes, as a run has them."""
    return METERS[meter].reduce(meter, processes)


def run(client: ForkClient, chosen: Sequence[Case]) -> list[Reading]:
    """Time every case as `cab run` does: each round runs one process of every case."""
    samples: list[list[dict[str, Any]]] = [[] for _ in chosen]
    for _ in range(PROCESSES):
        for case, processes in zip(chosen, samples, strict=True):
            processes.append(process(client, case))
    return [reading(processes) for processes in samples]
