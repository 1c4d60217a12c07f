"""What `cab track` finds and what it calls wrongly, beside other people's rules on the same samples.

    python benchmarks/track.py [--runs 25] [--busy] [--cases KEY=VALUE ...] [--results FOLDER]
    python benchmarks/track.py --report-only [the same]
    python benchmarks/track.py --self-test

Measures the same code on both sides: `--runs` runs of eighteen pairs of each case, and of the reference kernel. A pair
takes 0.8 s of processor time, and the servers of a round 2.4 s, so 25 runs of twenty cases take hours. Every pair is
kept, and a cut run goes on where it was; `--report-only` prints what there is. `--busy` keeps another process busy on
one core, and its pairs apart.

A slowdown is planted by multiplying the head's samples. A rule that compares single processes sees one pair, as it
would in CI; `cab track` sees eighteen at most. Printed are shares with Wilson's 95 % intervals.

`--self-test` measures a mechanism of its own, as it is and twice as slow, in about two minutes, and exits with 1
unless the second is `slower` and the first is not.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median, quantiles
from tempfile import TemporaryDirectory

from cab import environment
from cab.intervals import wilson
from cab.paths import cache, write_whole
from cab.tracking.calibration import calibrate_case
from cab.tracking.cases import TrackedCase, reference_kernel, tracked_cases
from cab.tracking.compare import Settings, compare
from cab.tracking.lockstep import PROCEDURE, log_ratio, measure_pair
from cab.tracking.processes import Servers
from cab.tracking.sides import NoData, changed, installed_side
from cab.tracking.verdicts import CONFIRM_PAIRS, Minimum, Samples, Verdict, flagged, judge, wanted_pairs
from cab.tracking.worker import REFERENCE_KERNEL

CALIBRATION_RUNS = 2  # as many as `cab track calibrate` takes
SLOWDOWNS = (0.0, 0.03, 0.05, 0.10, 0.20)
TWICE = """
import time

from cab import Mechanism


class Planted(Mechanism):
    patterns = {"NS": "native"}
    paper = "none"

    def attend(self, q, k, v, key_mask=None, query_mask=None):
        self.spin(0.002)
        return q + k + v

    def attend_twice(self, q, k, v, key_mask=None, query_mask=None):
        self.spin(0.004)
        return q + k + v

    def reference(self, q, k, v):
        return q + k + v

    def spin(self, seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
"""


@dataclass(frozen=True)
class Pair:
    """The samples of one process pair, in seconds of a call."""

    base: list[float]
    head: list[float]
    flipped: list[bool]  # whether the head came first

    def slower(self, share: float) -> "Pair":
        """Return the pair with a slowdown planted into the head."""
        return replace(self, head=[(1 + share) * seconds for seconds in self.head])

    @property
    def log_ratio(self) -> float:
        """The statistic of a pair, as `cab track` takes it."""
        return log_ratio(self.base, self.head, self.flipped)


def mean_rule(pair: Pair) -> bool:
    """`pytest-benchmark compare --benchmark-compare-fail=mean:5%`."""
    return fmean(pair.head) > 1.05 * fmean(pair.base)


def asv_rule(pair: Pair) -> bool:
    """asv's: Mann-Whitney at p < .002, and a factor of 1.1 between the medians."""
    return _mann_whitney(pair) < 0.002 and median(pair.head) > 1.1 * median(pair.base)


def fence_rule(pair: Pair) -> bool:
    """The head's median lies above the base's third quartile by three times the range between the quartiles."""
    low, _, high = quantiles(pair.base, n=4)
    return median(pair.head) > high + 3 * (high - low)


def mann_whitney_rule(pair: Pair) -> bool:
    """Mann-Whitney at p < .05 on the samples of one process each, and a larger median (google/benchmark)."""
    return _mann_whitney(pair) < 0.05 and median(pair.head) > median(pair.base)


def _mann_whitney(pair: Pair) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(pair.head, pair.base).pvalue)


SINGLE_RULES: dict[str, Callable[[Pair], bool]] = {
    "pytest-benchmark, mean:5%": mean_rule,
    "asv": asv_rule,
    "3 x interquartile fence": fence_rule,
    "Mann-Whitney, p < .05": mann_whitney_rule,
}


Pairs = dict[str, list[Pair]]  # by case


def runs_of(cases: Pairs) -> list[Pairs]:
    """Return the disjoint runs of eighteen pairs of every case."""
    starts = range(0, min(map(len, cases.values()), default=0) - CONFIRM_PAIRS + 1, CONFIRM_PAIRS)
    return [{name: pairs[start : start + CONFIRM_PAIRS] for name, pairs in cases.items()} for start in starts]


def judged(run: Pairs, slowed: str = "", share: float = 0.0, settle: bool = False) -> dict[str, Verdict]:
    """Return the verdicts of a run in which one case has a slowdown, and all others are as they are."""
    planted = {name: [pair.slower(share) for pair in run[name]] for name in run if name == slowed}
    return judge({name: _samples(pairs, settle) for name, pairs in {**run, **planted}.items()}, Minimum(), settle)


def found_by_track(
    cases: Pairs, share: float, settle: bool = False, of_cases: Collection[str] | None = None, skip: int = 0
) -> tuple[int, int]:
    """Return how often a slowed case is `slower`, and of how many tries: each of `of_cases` in each run, less the first
    `skip` runs.
    """
    tries = [(run, name) for run in runs_of(cases)[skip:] for name in (run if of_cases is None else of_cases)]
    if not share:  # nothing is slowed, so that a run is judged once
        verdicts = [said for run in runs_of(cases)[skip:] for said in judged(run, settle=settle).values()]
        return sum(said.verdict == "slower" for said in verdicts), len(verdicts)
    return sum(judged(run, name, share, settle)[name].verdict == "slower" for run, name in tries), len(tries)


def same_when_settled(cases: Pairs) -> tuple[int, int]:
    """Return how many unchanged cases are `same` with all eighteen pairs, and how many there are."""
    said = [each.verdict for run in runs_of(cases) for each in judged(run, settle=True).values()]
    return said.count("same"), len(said)


def void_runs(cases: Pairs, kernel: Sequence[Pair]) -> tuple[int, int]:
    """Return how many runs the controls call unproven, and how many there are.

    A run's controls are two of its cases, with the pairs of the next run, and the reference kernel.
    """
    runs, names = runs_of(cases), list(cases)
    chosen = [names[len(names) // 4], names[3 * len(names) // 4]]
    void = 0
    for number in range(len(runs)):
        following = runs[(number + 1) % len(runs)]
        of_kernel = kernel[number * CONFIRM_PAIRS : (number + 1) * CONFIRM_PAIRS]
        controls = {name: following[name] for name in chosen} | {REFERENCE_KERNEL: list(of_kernel)}
        void += bool(flagged(judged(controls)))
    return void, len(runs)


def admitted(cases: Pairs, share: float) -> list[str]:
    """Return the cases in which `cab track calibrate` finds a slowdown of this share, by the first two runs."""
    first = {
        name: [pair.log_ratio for pair in pairs[: CALIBRATION_RUNS * CONFIRM_PAIRS]] for name, pairs in cases.items()
    }
    found = {name: calibrate_case(ratios, len(cases)).smallest for name, ratios in first.items()}
    return [name for name, smallest in found.items() if smallest is not None and smallest <= share]


def _samples(pairs: Sequence[Pair], settle: bool = False) -> Samples:
    log_ratios, seconds = [pair.log_ratio for pair in pairs], median(median(pair.base) for pair in pairs)
    return Samples(log_ratios[: wanted_pairs(log_ratios, settle)], seconds)


def found_by(rule: Callable[[Pair], bool], cases: dict[str, list[Pair]], share: float) -> tuple[int, int]:
    """Return in how many pairs a rule for single processes calls the head slower, and how many there are."""
    said = [rule(pair.slower(share)) for pairs in cases.values() for pair in pairs]
    return sum(said), len(said)


def table(cases: dict[str, list[Pair]]) -> str:
    """Return the table in Markdown: a row for each rule, a column for each slowdown."""
    head = ["rule", *("same code" if share == 0 else f"+{share:.0%}" for share in SLOWDOWNS)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(SLOWDOWNS)}"]
    rows = {
        "cab track compare": [found_by_track(cases, share) for share in SLOWDOWNS],
        "cab track compare --settle": [found_by_track(cases, share, settle=True) for share in SLOWDOWNS],
    }
    rows |= {name: [found_by(rule, cases, share) for share in SLOWDOWNS] for name, rule in SINGLE_RULES.items()}
    for name, counts in rows.items():
        lines.append(f"| {name} | {' | '.join(_share(*count) for count in counts)} |")
    return "\n".join(lines)


def numbers(cases: Pairs, kernel: Sequence[Pair]) -> str:
    """Return the rates that `cab track` promises, one a line."""
    lines = {
        "same code called slower": found_by_track(cases, 0.0),
        "same code called slower, --settle": found_by_track(cases, 0.0, settle=True),
        "same code called same, --settle": same_when_settled(cases),
        "runs that the controls call unproven": void_runs(cases, kernel),
    }
    for share in (0.05, 0.10):
        admits = admitted(cases, share)
        lines[f"cases that calibrate admits at {share:.0%}"] = len(admits), len(cases)
        # calibrated on the first runs, tried on the others
        counts = found_by_track(cases, share, of_cases=admits, skip=CALIBRATION_RUNS)
        lines[f"+{share:.0%} found in those, in the runs after the calibration"] = counts
    return "\n".join(f"{name}: {_share(*counts)}" for name, counts in lines.items())


def _share(hits: int, tries: int) -> str:
    if not tries:
        return "too few pairs"
    low, high = wilson(hits, tries)
    return f"{hits / tries:.1%} ({low:.1%} to {high:.1%} of {tries})"


def measure(cases: Sequence[TrackedCase], count: int, folder: Path, only_kept: bool = False) -> Pairs:
    """Measure pairs of the same code, round after round; kept in a folder. `only_kept` measures none."""
    side, pairs = installed_side(), Pairs()
    caches = cache() / "track" / "compiled"
    for number in range(count):
        with Servers() as servers:  # of each round its own, as `cab track` has them
            for case in cases:
                file = folder / f"{case.id}-{number:03}.json"
                if not file.is_file():
                    if only_kept:
                        continue
                    print(f"pair {number + 1} of {count}: {case.name}", file=sys.stderr)
                    try:
                        pair = measure_pair(side, side, case.question, caches, False, servers)
                    except NoData as error:
                        print(f"no data: {case.name}: {error}", file=sys.stderr)
                        continue
                    write_whole(file, json.dumps({name: pair[name] for name in ("base", "head", "flipped")}))
                pairs.setdefault(case.name, []).append(Pair(**json.loads(file.read_text())))
    return pairs


@contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """Keep another process busy on one core."""
    command = [
        sys.executable,
        "-c",
        # until this process has ended, however it ends
        "import os\nos.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\nparent = os.getppid()\n"
        "while os.getppid() == parent: pass",
    ]
    process = subprocess.Popen(command) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def self_test() -> bool:
    """Whether a planted twofold slowdown is `slower`, and the same code is not."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "planted.py"
        file.write_text(TWICE)
        cases = tracked_cases([f"mechanism={file}:Planted", "pattern=NS", "seq_len=64", "batch=1"])
        slow = tracked_cases([f"mechanism={file}:Planted", "pattern=NS", "seq_len=64", "batch=1", "backend=twice"])
        side, settings = installed_side(), Settings(controls=0)
        planted = compare(changed(side, "backend=eager"), side, slow, settings, Path(folder))
        same = compare(side, changed(side, "backend=eager"), cases, settings, Path(folder))
    said = [next(iter(each.verdicts.values())) for each in (planted, same)]
    for name, each in zip(("twice as slow", "the same code"), said, strict=True):
        change = f"{each.effect.estimate:+.1%}" if each.effect else each.reason
        print(f"{name}: {each.verdict} ({change}, {each.pairs} pairs)")
    return said[0].verdict == "slower" and said[1].verdict in ("same", "unstable")


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25, help="of eighteen pairs of each case")
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--busy", action="store_true", help="with another process busy on one core")
    parser.add_argument("--report-only", action="store_true", help="measure nothing")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return 0 if self_test() else 1
    kind = "busy" if options.busy else "quiet"
    # by the environment, not by the sources: an edit elsewhere does not throw hours of pairs away
    identity = environment.environment_id(environment.identity("cpu", 1, True))
    folder = options.results / "benchmark-track" / f"{kind}-{PROCEDURE}-{identity}"
    with busy_core(options.busy and not options.report_only):
        everything = [*tracked_cases(options.cases), reference_kernel()]
        pairs = measure(everything, options.runs * CONFIRM_PAIRS, folder, options.report_only)
    kernel = pairs.pop(reference_kernel().name, [])
    if not pairs or not runs_of(pairs) or len(kernel) < CONFIRM_PAIRS * len(runs_of(pairs)):
        print(f"there are fewer than {CONFIRM_PAIRS} pairs of each case and of the reference kernel")
        return 3
    print(f"{len(pairs)} cases, {len(runs_of(pairs))} runs, {kind}\n\n{numbers(pairs, kernel)}\n\n{table(pairs)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
