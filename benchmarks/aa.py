"""A against A: how often the intervals of two runs of the same cases do not overlap.

    python benchmarks/aa.py [--quick]

20 cases run twice in a row, ten times over. Each run is made as `cab run` makes it: five fresh processes a case, in
rounds. At most 5 % of the 200 pairs of intervals may be disjoint. It takes about 10 minutes on a quiet machine.
`--quick`: three cases, once, and no verdict.
"""

import sys

from repeated import cases, measuring, run


def main(quick: bool) -> int:
    """Print the disjoint pairs and their share; return 1 where the share misses its aim."""
    count, repetitions = (3, 1) if quick else (20, 10)
    chosen, disjoint = cases(count), 0
    with measuring() as server:
        for repetition in range(repetitions):
            for case, a, b in zip(chosen, run(server, chosen), run(server, chosen), strict=True):
                if a.ci_high < b.ci_low or b.ci_high < a.ci_low:
                    disjoint += 1
                    print(f"{repetition + 1}: {case.title}: {a.value * 1e6:.1f} us, then {b.value * 1e6:.1f} us")
    total = len(chosen) * repetitions
    print(f"{disjoint} of {total} pairs of intervals are disjoint, {disjoint / total:.1%} (aim: at most 5 %)")
    return int(not quick and disjoint > 0.05 * total)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
