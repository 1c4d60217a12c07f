"""`cab track record`: what each case takes at one commit, as points of the history.

A case runs in lock-step with a kernel of PyTorch alone. Its ratio to that kernel is what a history can judge: absolute
seconds drift with the machine by more than a regression. Both are kept, and what needs no clock.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import exp
from pathlib import Path
from statistics import median
from typing import Any

from cab import environment
from cab.contracts.case import digest
from cab.errors import UsageError
from cab.paths import cache
from cab.tracking.cases import TrackedCase, device_of
from cab.tracking.compare import Measure, clock_range
from cab.tracking.findings import (
    CLOCK_UNIT,
    COUNT_UNIT,
    RATIO_METRIC,
    environments,
    findings,
    keep_environment,
    refresh,
)
from cab.tracking.history import Point, append, compact, read, recording_time
from cab.tracking.lockstep import PROCEDURE, measure_pair
from cab.tracking.processes import Servers
from cab.tracking.sides import NoData, commit_time, full_commit, side_of
from cab.tracking.state import State
from cab.tracking.worker import REFERENCE_KERNEL

PAIRS = 3


def record(
    revision: str,
    repository: Path,
    cases: Sequence[TrackedCase],
    pairs: int,
    same_environment: bool,
    folder: Path,
    results: Path,
    progress: Callable[[str], None],
    measure: Measure | None = None,
) -> tuple[str, list[Point], dict[str, str]]:
    """Measure a commit, append its points, and compute the changes of this environment again.

    Return the commit, its points, and why each case without points has none. What a killed run has measured is not
    measured again, and neither is what did not reach the history, as where a push of it was refused. Pairs whose points
    stand in the history are those of a finished run: the commit is then measured anew. `UsageError` where nothing could
    be measured.
    """
    commit = full_commit(revision, repository)
    try:
        side = side_of(commit, repository, same_environment)
    except NoData as error:
        raise UsageError(f"{revision} cannot be measured: {error}") from None
    kernel = replace(side, changes={"mechanism": REFERENCE_KERNEL})
    facts = environment.identity(device_of(cases), 1, True)
    when = commit_time(commit, repository)
    state = State(results / "track" / digest(["record", PROCEDURE, side.identity, facts], 16))
    blank = Point(commit, when, "", "", "", 0.0, "", "cab track record", recording_time(folder))
    known = {_told(point) for point in read(folder, commit)}
    for look in (findings, environments):  # what cannot be read there is said before anything is measured
        look(folder)
    for case in cases:
        kept = [pair for number in range(pairs) if (pair := state.pair(case.id, number)) is not None]
        if len(kept) == pairs and known.issuperset(map(_told, _points(blank, facts, case, kept)[0])):
            state.forget(case.id)
    points: list[Point] = []
    measured_in: dict[str, dict[str, object]] = {}  # environment id -> facts
    failures: dict[str, str] = {}
    pairs_of: dict[str, list[dict[str, Any]]] = {case.id: [] for case in cases}
    for number in range(pairs):
        with Servers() as servers:
            measure_one = measure or partial(measure_pair, servers=servers)
            for case in cases:
                pair = state.pair(case.id, number)
                if pair is None and case.name not in failures:
                    progress(f"pair {number + 1} of {pairs}: {case.name}")
                    try:
                        pair = measure_one(kernel, side, case.question, cache() / "track" / "compiled", number == 0)
                    except NoData as error:
                        failures[case.name] = str(error)
                        continue
                    state.keep(case.id, number, pair)
                if pair is not None:
                    pairs_of[case.id].append(pair)
    for case in cases:
        if case.name in failures:
            continue
        of_case_points, of_case = _points(blank, facts, case, pairs_of[case.id])
        measured_in[of_case_points[0].environment] = of_case
        points += of_case_points
    if not points:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UsageError(f"nothing could be measured at {commit[:12]}: {reasons}")
    append(folder, points)
    for identity, of_case in measured_in.items():
        keep_environment(folder, identity, of_case)
    compact(folder)
    refresh(folder, measured_in, progress=progress)
    return commit, points, failures


def _points(
    blank: Point, facts: Mapping[str, Any], case: TrackedCase, measured: Sequence[Mapping[str, Any]]
) -> tuple[list[Point], dict[str, Any]]:
    """Return what the pairs of a case say, and the facts of the environment that they ran in."""
    # the commit may have run in an environment of its own, which is not the one of this process
    of_case = {**facts, **measured[0]["versions"]["head"]}
    of_all = replace(blank, case=case.name, environment=environment.environment_id(of_case))
    return [
        replace(of_all, metric=metric, value=value, unit=unit) for (metric, unit), value in _values(measured).items()
    ], of_case


def _told(point: Point) -> tuple[str, str, str, float]:
    """Return what two points of a commit have in common that are of the same pairs."""
    return point.case, point.environment, point.metric, point.value


def _values(measured: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """Return (metric, unit) -> value of the pairs of a case."""
    values = {("latency", "s"): median(median(pair["head"]) for pair in measured)}
    values[RATIO_METRIC, "ratio"] = exp(median(pair["log_ratio"] for pair in measured))
    if clocks := clock_range(measured):
        values["GPU clock, lowest", CLOCK_UNIT], values["GPU clock, highest", CLOCK_UNIT] = clocks
    return values | {(name, COUNT_UNIT): value for name, value in measured[0]["counts"]["head"].items()}
