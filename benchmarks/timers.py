"""`timer=own` against other people's timers on the same calls, interleaved in one pinned process.

    python benchmarks/timers.py [--device cuda] [--rounds 25]

On the CPU it is held against `torch.utils.benchmark`, on ten cases. On a GPU it is held, on six cases, against the
timers of Triton and NVBench, whose second-level cache is cold as ours is; PyTorch's, whose cache is warm, is shown
beside them. A round times every case with every timer, one right after the other, in alternating order. Printed is the
median ratio over the rounds, with half the width of its 95 % interval. The timers must agree within 5 %. One thread.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

from cab import Unsupported
from cab.instruments import allocator
from cab.plugins import registry

PINNED = allocator.pin()  # before the first tensor

import torch  # noqa: E402

from cab.contracts.case import Case  # noqa: E402
from cab.instruments.timers import TIMERS  # noqa: E402
from cab.intervals import half_width_of_median  # noqa: E402
from cab.worker.workload import Workload, build  # noqa: E402

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


# on a GPU, long calls: the timers differ in what they count of a launch
ON_CUDA = [
    replace(BASE, n=4096, m=4096, batch=4),
    replace(BASE, n=4096, m=4096, batch=4, backend="sdpa", dtype="bfloat16"),
    replace(BASE, n=16384, m=16384, pattern="CS", backend="sdpa", dtype="bfloat16"),
    replace(BASE, n=4096, m=4096, batch=4, pass_="forward_backward", backend="sdpa", dtype="bfloat16"),
    replace(BASE, mechanism="linear", n=65536, m=65536),
    replace(BASE, mechanism="linear", n=65536, m=65536, pattern="CS"),
]
COLD, WARM = ("triton", "nvbench"), ("torch",)  # PyTorch's timer leaves the cache as the last call left it


def workload(case: Case) -> Workload:
    """Set up a case, checked."""
    mechanism, softmax = (registry.load("mechanism", name) for name in (case.mechanism, "softmax"))
    checked = build(case, registry.load("task", case.task), mechanism, softmax, Path())
    checked.check()
    return checked


def ratios(timed: Workload, names: list[str]) -> dict[str, tuple[float, float]]:
    """Return each timer's median seconds, and ours over them, timed in the order of `names`."""
    medians = {name: median(TIMERS[name](timed.run, timed.device).samples) for name in names}
    return {name: (seconds, medians["own"] / seconds) for name, seconds in medians.items()}


def runs_here(name: str, timed: Workload) -> bool:
    """Whether a timer is installed; prints why where it is not."""
    try:
        TIMERS[name](timed.run, timed.device)
    except Unsupported as reason:
        print(reason)
        return False
    return True


def main() -> int:
    """Print a line a case and timer, and how many agree within 5 %; return 1 where one does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_gpu = options.device != "cpu"
    print(f"torch {torch.__version__}, {options.device}, one thread, allocator {'pinned' if PINNED else 'NOT pinned'}")
    cases = [replace(case, device=options.device) for case in (ON_CUDA if on_gpu else CASES)]
    workloads = [workload(case) for case in cases]
    others = [name for name in (*COLD, *WARM) if runs_here(name, workloads[0])] if on_gpu else list(WARM)
    results: list[list[dict[str, tuple[float, float]]]] = [[] for _ in cases]  # of each case, one a round
    for turn in range(options.rounds):
        for timed, rounds in zip(workloads, results, strict=True):
            rounds.append(ratios(timed, ["own", *others][:: 1 if turn % 2 else -1]))
    print(f"{options.rounds} rounds\n{'case':78} {'own':>12} {'other':>12} {'ratio':>7}")
    counted = within = 0
    for case, rounds in zip(cases, results, strict=True):
        ours = median(each["own"][0] for each in rounds)
        for name in others:
            theirs, ratio = (median(each[name][i] for each in rounds) for i in (0, 1))
            half = half_width_of_median([each[name][1] for each in rounds])
            counts = not on_gpu or name in COLD
            counted += counts
            within += counts and abs(ratio - 1) <= 0.05
            what = f"{case.title} {case.dtype}: {name}{'' if counts else ' (warm cache: not counted)'}"
            print(f"{what:78} {ours * 1e6:9.1f} us {theirs * 1e6:9.1f} us {ratio:7.3f} ±{half:.3f}")
    print(f"{within} of {counted} within 5 %")
    return int(within < counted)


if __name__ == "__main__":
    sys.exit(main())
