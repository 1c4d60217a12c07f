"""What a child of its own costs: 50 `speed` cases of a trivial mechanism, each in a child, against one process.

    python benchmarks/isolation.py

Prints the median of the paired differences. The laws are not part of this figure.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from cab.contracts.messages import MeasureAnswer, MeasureJob
from cab.planning.plan import plan
from cab.runner.fork_client import ForkClient
from cab.worker import jobs

CASES = 50


def main() -> None:
    """Print the medians and the cost of isolation."""
    lengths = ",".join(str(16 + i) for i in range(CASES))
    measurements = plan(
        ["mechanism=none", "task=speed", f"seq_len={lengths}", "meters=[flops]", "threads=1"]
    ).measurements
    torch.set_num_threads(1)
    in_children, in_process = [], []  # seconds of each case
    with tempfile.TemporaryDirectory() as data, ForkClient() as client:
        measure_jobs = [MeasureJob(each.case, data, threads=1, meters=["flops"]) for each in measurements]
        client.run(measure_jobs[0], 60, None)  # the server starts, once a run
        jobs.measure(measure_jobs[0])
        for job in measure_jobs:
            start = time.perf_counter()
            ending = client.run(job, 60, 2**33)
            in_children.append(time.perf_counter() - start)
            assert isinstance(ending.answer, MeasureAnswer), ending.answer
            start = time.perf_counter()
            jobs.measure(job)
            in_process.append(time.perf_counter() - start)
    cost = statistics.median(a - b for a, b in zip(in_children, in_process, strict=True))
    print(f"{Path(__file__).name}: {CASES} cases, median {1e3 * statistics.median(in_children):.1f} ms in a child, ")
    print(
        f"{1e3 * statistics.median(in_process):.1f} ms in one process; isolation costs {1e3 * cost:.1f} ms (at most 40)"
    )


if __name__ == "__main__":
    main()
