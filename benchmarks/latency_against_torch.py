"""The latency meter's timer against `torch.utils.benchmark`, on ten cases, interleaved in one pinned process.

    python benchmarks/latency_against_torch.py

Prints the ratio of the two per case: the median over rounds, with half the width of its 95 % interval; each round times
both within a moment of each other, in alternating order. They must agree within 5 %. One thread.
"""

from dataclasses import replace
from pathlib import Path
from statistics import median

from cab import allocator, plugins

PINNED = allocator.pin()  # before the first tensor

import torch  # noqa: E402
from torch.utils.benchmark import Timer  # noqa: E402

from cab import timers  # noqa: E402
from cab.cases import Case  # noqa: E402
from cab.intervals import half_width_of_median  # noqa: E402
from cab.workload import Workload, build  # noqa: E402

ROUNDS, SECONDS = 25, 0.1  # the latter about as long as our timer takes
BASE = Case(
    mechanism="softmax",
    params={},
    pattern="NS",
    task="speed",
    task_params={},
    n=256,
    m=256,
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
CASES = [
    BASE,
    replace(BASE, backend="sdpa"),
    replace(BASE, pattern="CS", backend="sdpa", n=512, m=512),
    replace(BASE, pass_="forward_backward", backend="sdpa"),
    replace(BASE, mechanism="linear"),
    replace(BASE, mechanism="linear", pattern="CS", n=512, m=512),
    replace(BASE, mechanism="linear", pattern="CC", pass_="forward_backward"),
    replace(BASE, mechanism="softmax", pattern="CS", pass_="decode"),
    replace(BASE, mechanism="linear", level="layer"),
    replace(BASE, n=32, m=32, batch=1, heads=1),
]


def workload(case: Case) -> Workload:
    """Set up a case, checked."""
    mechanism, softmax = (plugins.load("mechanism", name) for name in (case.mechanism, "softmax"))
    made = build(case, plugins.load("task", case.task), mechanism, softmax, Path())
    made.check()
    return made


def ratios(made: Workload) -> tuple[float, float, float, float]:
    """Return our median seconds, theirs, the median over rounds of their ratio, and its half width."""
    theirs = Timer("run()", globals={"run": made.run}, num_threads=1)
    found = []
    for turn in range(ROUNDS):
        pair = {}
        for name in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
            if name == "ours":
                pair[name] = median(timers.on_cpu(made.run).samples)
            else:
                pair[name] = theirs.blocked_autorange(min_run_time=SECONDS).median
        found.append((pair["ours"], pair["theirs"], pair["ours"] / pair["theirs"]))
    ours, others, ratio = (median(column) for column in zip(*found, strict=True))
    return ours, others, ratio, half_width_of_median([row[2] for row in found])


def main() -> None:
    """Print a line a case, and how many agree within 5 %."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, allocator {'pinned' if PINNED else 'NOT pinned'}, {ROUNDS} rounds")
    print(f"{'case':58} {'ours':>10} {'torch':>10} {'ratio':>7}")
    within = 0
    for case in CASES:
        ours, theirs, ratio, half = ratios(workload(case))
        within += abs(ratio - 1) <= 0.05
        print(f"{case.title:58} {ours * 1e6:7.1f} us {theirs * 1e6:7.1f} us {ratio:7.3f} ±{half:.3f}", flush=True)
    print(f"{within} of {len(CASES)} within 5 %")


if __name__ == "__main__":
    main()
