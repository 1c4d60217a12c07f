"""Whether the stated 95 % interval of a latency, or of a ratio of latencies, covers the value of a far longer run.

    python benchmarks/coverage.py [--ratio] [--quick]

Ten cases are timed ten times each as a run does it (five fresh processes in rounds, and more where a ratio's interval
is wide), and once from 64 processes that are spread over the same minutes. At least 90 of the 100 intervals must
contain the value of the 64 processes. It takes about 8 minutes on a quiet machine, and with `--ratio`, where a process
times softmax (sdpa) beside the case, 20. `--quick`: two cases, three times, 8 processes, and no verdict.
"""

import sys

from repeated import LATENCY, LATENCY_RATIO, METERS, PROCESSES, cases, measuring, process, reading


def main(quick: bool, meter: str) -> int:
    """Print a line a case and the share of intervals that cover; return 1 where it misses its aim."""
    count, repetitions, long_processes = (2, 3, 8) if quick else (10, 10, 64)
    chosen = cases(2 * count, meter)[::2] if meter == LATENCY_RATIO else cases(count)
    rounds = repetitions * PROCESSES
    readings: list[list] = [[] for _ in chosen]  # of each case, one a repetition
    long_runs: list[list] = [[] for _ in chosen]  # of each case, the samples of its 64 processes
    with measuring() as server:
        for repetition in range(repetitions):
            samples: list[list] = [[] for _ in chosen]
            for turn in range(PROCESSES):
                rounds_so_far = repetition * PROCESSES + turn + 1
                for i, case in enumerate(chosen):
                    samples[i].append(process(server, case, meter))
                    while len(long_runs[i]) < long_processes * rounds_so_far / rounds:
                        long_runs[i].append(process(server, case, meter))
            for i, processes in enumerate(samples):
                if reading(processes, meter).converged is False:  # as a run does it
                    processes += [process(server, chosen[i], meter) for _ in range(METERS[meter].more_processes)]
                readings[i].append(reading(processes, meter))
    covered = 0
    for case, of_case, long_run in zip(chosen, readings, long_runs, strict=True):
        value = reading(long_run, meter).value
        covering = sum(each.ci_low <= value <= each.ci_high for each in of_case)
        width = sum((each.ci_high / each.ci_low) ** 0.5 - 1 for each in of_case) / len(of_case)
        covered += covering
        text = f"{value:9.3f} times" if meter == LATENCY_RATIO else f"{value * 1e6:9.1f} us"
        print(f"{case.title:58} {text}  {covering:2} of {len(of_case)} cover, mean half width {width:.1%}")
    total = count * repetitions
    print(f"{covered} of {total} intervals cover the value of {long_processes} processes (aim: 90 of 100)")
    return int(not quick and covered < 0.9 * total)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:], LATENCY_RATIO if "--ratio" in sys.argv[1:] else LATENCY))
