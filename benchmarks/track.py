"""What `cab track` finds and what it calls wrongly, beside other people's rules on the same samples.

    python benchmarks/track.py [--pairs 54] [--cases KEY=VALUE ...] [--results FOLDER]
    python benchmarks/track.py --self-test

Measures pairs of the same code on both sides, and judges disjoint runs of them. A slowdown is planted by multiplying
the head's samples. A rule that compares single processes sees one pair, as it would in CI; `cab track` sees eighteen at
most. Printed are shares of wrong calls and of slowdowns found, with Wilson's 95 % intervals; a cut run goes on where it
was. `--self-test` measures a mechanism of its own, as it is and twice as slow, in about two minutes, and exits with 1
unless the second is `slower` and the first is not.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from statistics import fmean, median, quantiles
from tempfile import TemporaryDirectory

from cab.intervals import wilson
from cab.paths import cache, write_whole
from cab.tracking.cases import TrackedCase, tracked_cases
from cab.tracking.compare import Settings, compare
from cab.tracking.lockstep import measure_pair
from cab.tracking.sides import NoData, changed, installed_side
from cab.tracking.verdicts import CONFIRM_PAIRS, Minimum, Samples, judge, wanted_pairs

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

    def slower(self, share: float) -> "Pair":
        """Return the pair with a slowdown planted into the head."""
        return Pair(self.base, [(1 + share) * seconds for seconds in self.head])

    @property
    def log_ratio(self) -> float:
        """The statistic of a pair, as `cab track` takes it."""
        return median(log(head / base) for base, head in zip(self.base, self.head, strict=True))


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


def found_by_track(cases: dict[str, list[Pair]], share: float) -> tuple[int, int]:
    """Return how many of the disjoint runs of single cases are `slower`, and how many there are.

    In each run one case has the slowdown, and all others are as they are.
    """
    hits = tries = 0
    for start in range(0, min(map(len, cases.values())) - CONFIRM_PAIRS + 1, CONFIRM_PAIRS):
        run = {name: pairs[start : start + CONFIRM_PAIRS] for name, pairs in cases.items()}
        same = {name: _samples([pair.log_ratio for pair in pairs], pairs) for name, pairs in run.items()}
        for name, pairs in run.items():
            slowed = [pair.slower(share) for pair in pairs]
            said = judge({**same, name: _samples([pair.log_ratio for pair in slowed], pairs)}, Minimum())
            hits += said[name].verdict == "slower"
            tries += 1
    return hits, tries


def _samples(log_ratios: Sequence[float], pairs: Sequence[Pair]) -> Samples:
    seconds = median(median(pair.base) for pair in pairs)
    return Samples(log_ratios[: wanted_pairs(log_ratios)], seconds)


def found_by(rule: Callable[[Pair], bool], cases: dict[str, list[Pair]], share: float) -> tuple[int, int]:
    """Return in how many pairs a rule for single processes calls the head slower, and how many there are."""
    said = [rule(pair.slower(share)) for pairs in cases.values() for pair in pairs]
    return sum(said), len(said)


def table(cases: dict[str, list[Pair]]) -> str:
    """Return the table in Markdown: a row for each rule, a column for each slowdown."""
    head = ["rule", *("same code" if share == 0 else f"+{share:.0%}" for share in SLOWDOWNS)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(SLOWDOWNS)}"]
    rows = {"cab track compare": [found_by_track(cases, share) for share in SLOWDOWNS]}
    rows |= {name: [found_by(rule, cases, share) for share in SLOWDOWNS] for name, rule in SINGLE_RULES.items()}
    for name, counts in rows.items():
        lines.append(f"| {name} | {' | '.join(_share(*count) for count in counts)} |")
    return "\n".join(lines)


def _share(hits: int, tries: int) -> str:
    if not tries:
        return "too few pairs"
    low, high = wilson(hits, tries)
    return f"{hits / tries:.1%} ({low:.1%} to {high:.1%} of {tries})"


def measure(cases: Sequence[TrackedCase], count: int, results: Path) -> dict[str, list[Pair]]:
    """Measure pairs of the same code, round after round; kept in `results`."""
    side, pairs = installed_side(), dict[str, list[Pair]]()
    for number in range(count):
        for case in cases:
            file = results / "benchmark-track" / side.identity.split()[-1] / f"{case.id}-{number:03}.json"
            if not file.is_file():
                try:
                    pair = measure_pair(side, side, case.question, cache() / "track" / "compiled", False)
                except NoData as error:
                    print(f"no data: {case.name}: {error}", file=sys.stderr)
                    continue
                write_whole(file, json.dumps({"base": pair["base"], "head": pair["head"]}))
            pairs.setdefault(case.name, []).append(Pair(**json.loads(file.read_text())))
            print(f"pair {number + 1} of {count}: {case.name}", file=sys.stderr)
    return pairs


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
    parser.add_argument("--pairs", type=int, default=3 * CONFIRM_PAIRS)
    parser.add_argument("--cases", nargs="*", default=[])
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        return 0 if self_test() else 1
    pairs = measure(tracked_cases(options.cases), options.pairs, options.results)
    print(table(pairs) if pairs else "nothing could be measured")
    return 0 if pairs else 3


if __name__ == "__main__":
    sys.exit(main())
