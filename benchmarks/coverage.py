"""Whether the stated 95 % interval of a latency covers the value of a far longer run.

    python benchmarks/coverage.py [--quick]

Ten cases are timed ten times each as a run does it (five fresh processes in rounds), and once from 64 processes that
are spread over the same minutes. At least 90 of the 100 intervals must contain the value of the 64 processes. It takes
about 8 minutes on a quiet machine. `--quick`: two cases, three times, 8 processes, and no verdict.
"""

import sys

from repeated import LATENCY, cases, measuring, process


def main(quick: bool) -> int:
    """Print a line a case and the share of intervals that cover; return 1 where it misses its aim."""
    count, repetitions, long_processes = (2, 3, 8) if quick else (10, 10, 64)
    chosen = cases(count)
    rounds = repetitions * LATENCY.processes
    readings: list[list] = [[] for _ in chosen]  # of each case, one a repetition
    long_runs: list[list] = [[] for _ in chosen]  # of each case, the samples of its 64 processes
    with measuring() as server:
        for repetition in range(repetitions):
            samples: list[list] = [[] for _ in chosen]
            for turn in range(LATENCY.processes):
                rounds_so_far = repetition * LATENCY.processes + turn + 1
                for i, case in enumerate(chosen):
                    samples[i].append(process(server, case))
                    while len(long_runs[i]) < long_processes * rounds_so_far / rounds:
                        long_runs[i].append(process(server, case))
            for i, processes in enumerate(samples):
                readings[i].append(LATENCY.reduce("latency", processes))
    covered = 0
    for case, of_case, long_run in zip(chosen, readings, long_runs, strict=True):
        value = LATENCY.reduce("latency", long_run).value
        covering = sum(reading.ci_low <= value <= reading.ci_high for reading in of_case)
        width = sum((r.ci_high / r.ci_low) ** 0.5 - 1 for r in of_case) / len(of_case)
        covered += covering
        cover = f"{covering:2} of {len(of_case)} cover"
        print(f"{case.title:58} {value * 1e6:9.1f} us  {cover}, mean half width {width:.1%}")
    total = count * repetitions
    print(f"{covered} of {total} intervals cover the value of {long_processes} processes (aim: 90 of 100)")
    return int(not quick and covered < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
