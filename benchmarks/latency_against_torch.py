"""`timer=own` against `timer=torch` (`torch.utils.benchmark`), on ten cases, interleaved in one pinned process.

    python benchmarks/latency_against_torch.py [--quick]

Prints the ratio of the two per case: the median over rounds, with half the width of its 95 % interval. A round goes
through all cases and times each with both, within a moment of each other, in alternating order. They must agree within
5 %. One thread. `--quick`: three rounds.
"""

import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from cab import allocator, plugins

PINNED = allocator.pin()  # before the first tensor

import torch  # noqa: E402

from cab.cases import Case  # noqa: E402
from cab.intervals import half_width_of_median  # noqa: E402
from cab.timers import TIMERS  # noqa: E402
from cab.workload import Workload, build  # noqa: E402

ROUNDS = 25
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


def pair(made: Workload, names: tuple[str, ...]) -> tuple[float, float, float]:
    """Return our median seconds, theirs, and the ratio, timed in the order of `names`."""
    found = {name: median(TIMERS[name](made.run, made.device).samples) for name in names}
    return found["own"], found["torch"], found["own"] / found["torch"]


def main(rounds: int) -> int:
    """Print a line a case, and how many agree within 5 %; return 1 where one does not."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, allocator {'pinned' if PINNED else 'NOT pinned'}, {rounds} rounds")
    print(f"{'case':58} {'own':>10} {'torch':>10} {'ratio':>7}")
    workloads = [workload(case) for case in CASES]
    found: list[list[tuple[float, float, float]]] = [[] for _ in CASES]
    for turn in range(rounds):
        for made, pairs in zip(workloads, found, strict=True):
            pairs.append(pair(made, ("own", "torch") if turn % 2 else ("torch", "own")))
    within = 0
    for case, pairs in zip(CASES, found, strict=True):
        ours, theirs, ratio = (median(column) for column in zip(*pairs, strict=True))
        half = half_width_of_median([ratio for *_, ratio in pairs])
        within += abs(ratio - 1) <= 0.05
        print(f"{case.title:58} {ours * 1e6:7.1f} us {theirs * 1e6:7.1f} us {ratio:7.3f} ±{half:.3f}")
    print(f"{within} of {len(CASES)} within 5 %")
    return int(within < len(CASES))


if __name__ == "__main__":
    sys.exit(main(3 if "--quick" in sys.argv[1:] else ROUNDS))
