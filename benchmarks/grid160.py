"""The grid of 160 cases: how long it takes, and how narrow the intervals of its latencies or ratios are.

    python benchmarks/grid160.py [--ratio] [--quick]

Five mechanisms x four patterns x four lengths (256 to 2,048) x two passes, each with latency, memory and FLOPs, are
measured by `cab run` into an empty store, after the laws have been checked. It must end within 6 minutes, with an
interval of at most +-5 % on at least 80 % of the latency rows. With `--ratio` each is timed in turn with softmax (sdpa)
instead (`meters=[latency_ratio]`), within 35 minutes. `--quick`: two of each and one pass, and no verdict.
"""

import sys
import tempfile
import time

import cab

MECHANISMS = ("softmax", "linear", "abc", "performer", "local")


def overrides(quick: bool) -> list[str]:
    """Return the grid as overrides."""
    mechanisms, patterns = (MECHANISMS[:2], "NS,CS") if quick else (MECHANISMS, "NS,CS,NC,CC")
    lengths, passes = ("256,512", "forward") if quick else ("256,512,1024,2048", "forward,forward_backward")
    return [f"mechanism={','.join(mechanisms)}", "task=speed", f"pattern={patterns}", f"seq_len={lengths}",
            f"pass={passes}"]  # fmt: skip


def main(quick: bool, ratio: bool) -> int:
    """Check the laws, run, and print minutes and the share of narrow intervals; return 1 where an aim is missed."""
    grid, metric, most = overrides(quick), "latency_ratio" if ratio else "latency", 35 if ratio else 6
    with tempfile.TemporaryDirectory() as folder:
        cab.run([*grid, "meters=[parameters]"], results=f"{folder}/laws", progress=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        meters = ["meters=[latency_ratio]", "baseline_backend=sdpa"] if ratio else ["meters=[latency,memory,flops]"]
        rows = cab.run([*grid, *meters], results=folder, progress=False)
        minutes = (time.perf_counter() - start) / 60
    asked = rows[rows["metric"] == metric]
    timed = asked[asked["status"] == "ok"]
    narrow, widths = float(timed["converged"].mean()), (timed["ci_high"] / timed["ci_low"]) ** 0.5 - 1
    print(f"{len(asked)} cases, {len(timed)} timed: {minutes:.1f} minutes (aim: {most} for 160)")
    print(f"statuses: {rows['status'].value_counts().to_dict()}")
    print(f"within +-5 %: {narrow:.0%} of the rows of {metric} (aim: 80 %); median +-{widths.median():.1%}")
    return int(not quick and (minutes > most or narrow < 0.8 or len(asked) != 160 or len(timed) != 160))


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:], "--ratio" in sys.argv[1:]))
