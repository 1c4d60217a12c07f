"""A against A: how often the intervals of two runs of the same cases fail to overlap.

    python benchmarks/aa.py [--quick]

Ten times, two runs of 20 cases one after the other, each as `cab run` does it: five fresh processes a case, in rounds.
Of the 200 pairs of intervals at most 5 % may lie apart. About 10 minutes on a quiet machine; `--quick`: three cases,
once, and no verdict.
"""

import sys

from repeated import cases, measuring, run


def main(quick: bool) -> int:
    """Print the pairs that lie apart, and their share; return 1 where it misses its aim."""
    count, repetitions = (3, 1) if quick else (20, 10)
    chosen, apart = cases(count), 0
    with measuring() as server:
        for repetition in range(repetitions):
            for case, a, b in zip(chosen, run(server, chosen), run(server, chosen), strict=True):
                if a.ci_high < b.ci_low or b.ci_high < a.ci_low:
                    apart += 1
                    print(f"{repetition + 1}: {case.title}: {a.value * 1e6:.1f} us, then {b.value * 1e6:.1f} us")
    total = len(chosen) * repetitions
    print(f"{apart} of {total} pairs of intervals lie apart, {apart / total:.1%} (aim: at most 5 %)")
    return int(not quick and apart > 0.05 * total)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
