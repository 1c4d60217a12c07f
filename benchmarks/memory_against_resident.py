"""`peak_allocated` against the growth of the resident set, for every mechanism, forward and with backward.

    python benchmarks/memory_against_resident.py [--quick]

At n = 2,048 (batch 1, 4 heads of 64) each case is measured twice, in fresh processes: allocated bytes must agree
exactly, and with backward lie within 5 % of the resident set's growth for eager softmax and top-k attention. For all
others the gap is printed: what glibc keeps of freed blocks (forward alone, the mask of top-k), and pages that a kernel
never touches. `--quick`: those two at n = 512, where the gap is printed but nothing is held to it.
"""

import json
import os
import sys
from pathlib import Path

os.environ["KINETO_LOG_LEVEL"] = "99"  # before torch is loaded: the profiler would talk

import torch  # noqa: E402

from cab import Mechanism, Unsupported  # noqa: E402
from cab.contracts.case import Case  # noqa: E402
from cab.meters.memory import Memory  # noqa: E402
from cab.plugins import registry  # noqa: E402
from cab.worker.workload import build  # noqa: E402

PASSES = ("forward", "forward_backward")


class TopK(Mechanism):
    """Softmax over each query's k largest scores."""

    patterns = {"NS": "native"}
    cost = "O(n m d)"

    def __init__(self, slot, *, k: int = 64):
        super().__init__(slot)
        self.k = k

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        """Score every pair, keep the largest, average their values."""
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        least = scores.topk(self.k, -1).values[..., -1:]
        return scores.masked_fill(scores < least, float("-inf")).softmax(-1) @ v


def measured(mechanism: type[Mechanism], pattern: str, pass_: str, n: int) -> dict[str, float | str]:
    """Measure in a forked process, as the harness does: without the pinned allocator."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as end:
            text = end.read()
        os.waitpid(child, 0)
        return json.loads(text or '{"reason": "the process failed"}')
    try:
        torch.set_num_threads(1)
        case = Case(mechanism.__name__, {}, pattern, "speed", {}, n, n, 1, 4, 64, "float32", "cpu", "eager", "attend",
                    pass_, 0, "quick")  # fmt: skip
        made = build(case, registry.load("task", "speed"), mechanism, registry.load("mechanism", "softmax"), Path())
        try:
            found = {name: given["samples"][0] for name, given in Memory().measure(made, case).items()}
        except (Unsupported, ValueError) as error:
            found = {"reason": str(error)}
        os.write(writer, json.dumps(found).encode())
    finally:
        os._exit(0)


def main(quick: bool) -> int:
    """Print a line a case; return 1 where one of the two that are held to it misses."""
    n = 512 if quick else 2048
    held = {"softmax": registry.load("mechanism", "softmax"), "top-k": TopK}
    others = {} if quick else {name: registry.load("mechanism", name) for name in registry.names("mechanism")}
    missed = []
    print(f"n={n}, torch {torch.__version__}\n{'':20} {'pass':17} {'allocated':>12} {'resident':>12} {'gap':>8}  exact")
    for name, mechanism in {**held, **others}.items():
        if not isinstance(mechanism.patterns, dict) or not mechanism.patterns:
            continue  # a wrapper
        pattern = next(iter(mechanism.patterns))
        for pass_ in PASSES:
            first, second = (measured(mechanism, pattern, pass_, n) for _ in range(2))
            if "reason" in first:
                print(f"{name:20} {pass_:17} {first['reason']}")
                continue
            allocated, resident = first["peak_allocated"], first["peak_resident"]
            gap, exact = resident / allocated - 1 if allocated else float("nan"), second["peak_allocated"] == allocated
            print(f"{name:20} {pass_:17} {allocated / 2**20:8.2f} MiB {resident / 2**20:8.2f} MiB {gap:+8.1%}  {exact}",
                  flush=True)  # fmt: skip
            if not exact or (name in held and pass_ == "forward_backward" and abs(gap) > 0.05 and not quick):
                missed.append(f"{name} {pass_}")
    print(f"missed: {', '.join(missed)}" if missed else "every case exact in two runs, those held to 5 % within it")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
