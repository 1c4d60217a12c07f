"""`cab track compare`: pairs of every case and control, round after round, and what they say."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import Any

from cab import environment
from cab.contracts.case import digest
from cab.paths import cache
from cab.tracking.cases import TrackedCase, device_of, reference_kernel, without_instructions
from cab.tracking.lockstep import PROCEDURE, measure_pair
from cab.tracking.processes import Servers
from cab.tracking.sides import NoData, Side
from cab.tracking.state import State
from cab.tracking.verdicts import (
    CONFIRM_PAIRS,
    SCREEN_PAIRS,
    Minimum,
    Samples,
    Verdict,
    exit_code,
    flagged,
    judge,
    wanted_pairs,
)

EXACT_SHARE = 0.005  # a count that grows by more is a regression; a planted 1 % is, whatever the rounding
CONTROLS = 2  # cases that are measured with the base on both sides

# stands for `measure_pair`: a test's own, or what measures all pairs of a round
Measure = Callable[[Side, Side, Mapping[str, Any], Path, bool], dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """How a comparison is made."""

    minimum: Minimum = Minimum()
    settle: bool = False  # all pairs for every case
    controls: int = CONTROLS


@dataclass(frozen=True)
class CountChange:
    """A count of both sides."""

    name: str
    base: float
    head: float

    @property
    def share(self) -> float:
        """The change as a share of the base; infinite where the base has none."""
        if self.base:
            return self.head / self.base - 1
        return float("inf") if self.head else 0.0

    @property
    def regressed(self) -> bool:
        """Whether it grew by more than what is allowed."""
        return self.share > EXACT_SHARE


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found."""

    base: Side
    head: Side
    verdicts: dict[str, Verdict]  # by case name
    controls: dict[str, Verdict]
    seconds: dict[str, tuple[float, float]]  # of one call, base and head: medians over pairs
    counts: dict[str, list[CountChange]] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, tuple[str, str]] = field(default_factory=dict)  # those that differ, base and head
    log_ratios: dict[str, list[float]] = field(default_factory=dict)  # head over base, one a pair, by case name
    # on a GPU, over all pairs: lowest and highest clock rate in MHz; empty where none could be read
    clocks: tuple[float, ...] = ()
    throttled: dict[str, int] = field(default_factory=dict)  # samples that were set apart for a low clock, by case name

    @property
    def flagged(self) -> list[str]:
        """Name the controls that make the run unproven."""
        return flagged(self.controls)

    @property
    def regressed_counts(self) -> list[tuple[str, CountChange]]:
        """List the counts that grew by more than what is allowed."""
        return [(name, each) for name, changes in self.counts.items() for each in changes if each.regressed]

    @property
    def exit_code(self) -> int:
        """Return 0 fine, 1 confirmed regression, 3 nothing measured, 4 unproven."""
        return exit_code(self.verdicts.values(), self.controls, bool(self.regressed_counts))


@dataclass
class _Measured:
    """A case or control in progress."""

    case: TrackedCase
    sides: tuple[Side, Side]
    pairs: list[dict[str, Any]] = field(default_factory=list)
    failure: str = ""

    @property
    def log_ratios(self) -> list[float]:
        return [pair["log_ratio"] for pair in self.pairs]

    @property
    def id(self) -> str:
        """Name its files: the state is of one pair of sides, so that only whether they differ is left to say."""
        return self.case.id if self.sides[0] != self.sides[1] else f"{self.case.id}-control"

    def seconds(self) -> tuple[float, float]:
        """Return the median seconds of a call, of base and head."""
        of_base, of_head = ([median(pair[side]) for pair in self.pairs] for side in ("base", "head"))
        return median(of_base), median(of_head)

    def samples(self) -> Samples:
        return Samples(self.log_ratios, self.seconds()[0])


def compare(
    base: Side,
    head: Side,
    cases: Sequence[TrackedCase],
    settings: Settings,
    results: Path,
    progress: Callable[[str], None] = lambda line: None,
    measure: Measure | None = None,
) -> Comparison:
    """Measure and judge. What an earlier run of the same comparison has measured is not measured again.

    That run may have been killed, or have ended: `forget` says that it has ended, and that the next one is a new one.
    """
    device = device_of(cases)
    identity = environment.identity(device, 1, True)
    state = _state(base, head, cases, results)
    measured = [_Measured(case, (base, head)) for case in cases]
    controls = [
        _Measured(without_instructions(replace(case, name=f"{case.name} (A/A control)")), (base, base))
        for case in _spread(cases, settings.controls)
    ]
    controls += [_Measured(reference_kernel(device), (base, head))] if settings.controls else []
    everything = [*measured, *controls]
    side_caches = cache() / "track" / "compiled"
    for number in range(SCREEN_PAIRS):
        if all(each.failure for each in measured):  # then there is nothing to control either
            controls, everything = [], []
        _round(everything, number, CONFIRM_PAIRS if settings.settle else None, state, side_caches, progress, measure)
    # after the screen a case needs all pairs or no more
    number = SCREEN_PAIRS
    while any(
        not each.failure and len(each.pairs) < wanted_pairs(each.log_ratios, settings.settle) for each in everything
    ):
        _round(everything, number, CONFIRM_PAIRS if settings.settle else None, state, side_caches, progress, measure)
        number += 1
    there = {each.case.name: each for each in measured if not each.failure}
    missing = {each.case.name: each.failure for each in measured if each.failure}
    verdicts = judge({name: each.samples() for name, each in there.items()}, settings.minimum, settings.settle, missing)
    return Comparison(
        base,
        head,
        {case.name: verdicts[case.name] for case in cases},
        _judge_controls(controls, settings),
        {name: each.seconds() for name, each in there.items()},
        {name: changes for name, each in there.items() if (changes := _changes(each.pairs[0]["counts"]))},
        identity,
        _different_versions([each.pairs[0] for each in there.values()]),
        {name: each.log_ratios for name, each in there.items()},
        clock_range(pair for each in everything for pair in each.pairs),
        {name: count for name, each in there.items() if (count := sum(p.get("throttled", 0) for p in each.pairs))},
    )


def forget(base: Side, head: Side, cases: Sequence[TrackedCase], results: Path) -> None:
    """Remove the pairs of a comparison, so that the next one of the same sides and cases is measured anew."""
    rmtree(_state(base, head, cases, results).folder, ignore_errors=True)


def _state(base: Side, head: Side, cases: Sequence[TrackedCase], results: Path) -> State:
    """Return the state of a comparison. Comparisons of other cases have their own: one may end before the other."""
    identity = environment.identity(device_of(cases), 1, True)
    ids = sorted(case.id for case in cases)
    return State(results / "track" / digest([PROCEDURE, base.identity, head.identity, identity, ids], 16))


def counted(
    base: Side,
    head: Side,
    case: TrackedCase,
    results: Path,
    progress: Callable[[str], None] = lambda line: None,
    measure: Measure | None = None,
) -> dict[str, CountChange]:
    """Return the counts that both sides have, by name, from one pair; `NoData` where a side has none.

    The pair is kept as the first one of a comparison of the same sides in this case.
    """
    state = _state(base, head, [case], results)
    name = _Measured(case, (base, head)).id
    pair = state.pair(name, 0)
    if pair is None:
        progress(f"counts: {case.name}")
        pair = (measure or measure_pair)(base, head, case.question, cache() / "track" / "compiled", True)
        state.keep(name, 0, pair)
    return _counts(pair["counts"])


def log_ratios_of(
    side: Side,
    cases: Sequence[TrackedCase],
    pairs: int,
    results: Path,
    side_caches: Path,
    progress: Callable[[str], None],
    measure: Measure | None = None,
) -> dict[str, list[float]]:
    """Measure pairs of the same code on both sides; a case that cannot be measured is left out."""
    state = _state(side, side, cases, results)
    measured = [_Measured(case, (side, side)) for case in cases]
    for number in range(pairs):
        _round(measured, number, pairs, state, side_caches, progress, measure)
    return {each.case.name: each.log_ratios for each in measured if not each.failure}


def clock_range(pairs: Iterable[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return the lowest and the highest clock rate of the GPU in MHz; nothing where none was read."""
    rates = [rate for pair in pairs for rate in pair.get("clocks", ())]
    return (min(rates), max(rates)) if rates else ()


def _judge_controls(controls: Sequence[_Measured], settings: Settings) -> dict[str, Verdict]:
    samples = {each.case.name: each.samples() for each in controls if not each.failure}
    # a case without data has nothing to control
    missing = {each.case.name: each.failure for each in controls if each.failure and each.sides[0] != each.sides[1]}
    return judge(samples, settings.minimum, settings.settle, missing)


def _spread(cases: Sequence[TrackedCase], count: int) -> list[TrackedCase]:
    """Choose cases evenly from the list."""
    count = min(count, len(cases))
    return [cases[(2 * i + 1) * len(cases) // (2 * count)] for i in range(count)]


def _round(
    everything: Sequence[_Measured],
    number: int,
    wanted: int | None,
    state: State,
    side_caches: Path,
    progress: Callable[[str], None],
    measure: Measure | None,
) -> None:
    """Measure one pair of each case that needs one, in an order of the round's own, by servers of the round's own.

    A case needs `wanted` pairs, or, where that is None, as many as its first ones ask for.
    """
    due = [
        each
        for each in everything
        if not each.failure and len(each.pairs) == number and number < (wanted or wanted_pairs(each.log_ratios))
    ]
    random.Random(number).shuffle(due)
    with Servers() as servers:
        measure = measure or partial(measure_pair, servers=servers)
        for position, each in enumerate(due):
            pair = state.pair(each.id, number)
            if pair is None:
                progress(f"pair {number + 1}, {position + 1} of {len(due)}: {each.case.name}")
                try:
                    pair = measure(*each.sides, each.case.question, side_caches, number == 0)
                except NoData as error:  # a failure is not kept: the same command tries it again
                    each.failure = str(error)
                    continue
                state.keep(each.id, number, pair)
            each.pairs.append(pair)


def _counts(counts: Mapping[str, Mapping[str, float]]) -> dict[str, CountChange]:
    """Return the counts that both sides have, by name."""
    base, head = counts["base"], counts["head"]
    return {name: CountChange(name, base[name], head[name]) for name in base if name in head}


def _changes(counts: Mapping[str, Mapping[str, float]]) -> list[CountChange]:
    """List the counts that differ, of those that both sides have."""
    return [each for each in _counts(counts).values() if each.base != each.head]


def _different_versions(first_pairs: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return the versions that the two sides do not share."""
    known = next((pair["versions"] for pair in first_pairs if "versions" in pair), None)
    if known is None:
        return {}
    base, head = known["base"], known["head"]
    return {name: (base[name], head[name]) for name in base if base[name] != head.get(name)}
