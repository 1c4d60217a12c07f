"""Whether the stated 95 % interval of a latency covers the value of a far longer run.

    python benchmarks/coverage.py [--quick]

Ten cases, each timed ten times as a run does it (five fresh processes in rounds), and once from 64 processes that are
spread over the same minutes. Of the 100 intervals at least 90 must hold their case's long value. About 8 minutes on a
quiet machine; `--quick`: two cases, three times, 8 processes, and no verdict.
"""

import sys

from repeated import LATENCY, cases, measuring, process


def main(quick: bool) -> int:
    """Print a line a case and the share that covers; return 1 where it misses its aim."""
    count, repetitions, long = (2, 3, 8) if quick else (10, 10, 64)
    chosen = cases(count)
    turns = repetitions * LATENCY.processes
    readings: list[list] = [[] for _ in chosen]
    truth: list[list] = [[] for _ in chosen]
    with measuring() as server:
        for repetition in range(repetitions):
            taken: list[list] = [[] for _ in chosen]
            for turn in range(LATENCY.processes):
                done = repetition * LATENCY.processes + turn + 1
                for i, case in enumerate(chosen):
                    taken[i].append(process(server, case))
                    while len(truth[i]) < long * done / turns:
                        truth[i].append(process(server, case))
            for i, processes in enumerate(taken):
                readings[i].append(LATENCY.reduce("latency", processes))
    covered = 0
    for case, of_case, processes in zip(chosen, readings, truth, strict=True):
        value = LATENCY.reduce("latency", processes).value
        good = sum(reading.ci_low <= value <= reading.ci_high for reading in of_case)
        width = sum((r.ci_high / r.ci_low) ** 0.5 - 1 for r in of_case) / len(of_case)
        covered += good
        print(f"{case.title:58} {value * 1e6:9.1f} us  {good:2} of {len(of_case)} cover, mean half width {width:.1%}")
    total = count * repetitions
    print(f"{covered} of {total} intervals cover the value of {long} processes (aim: 90 of 100)")
    return int(not quick and covered < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
