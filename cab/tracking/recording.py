"""`cab track record`: what each case takes at one commit, as points of the history.

A case runs in lock-step with a kernel of PyTorch alone. Its ratio to that kernel is what a history can judge: absolute
seconds drift with the machine by more than a regression. Both are kept, and what needs no clock.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from cab import environment
from cab.contracts.case import digest
from cab.errors import UsageError
from cab.paths import cache
from cab.tracking.cases import TrackedCase, device_of
from cab.tracking.compare import Measure, clock_range
from cab.tracking.findings import CLOCK_UNIT, COUNT_UNIT, RATIO_METRIC, keep_environment, refresh
from cab.tracking.history import Point, append, compact
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
    measured again. `UsageError` where nothing could be measured.
    """
    from math import exp

    commit = full_commit(revision, repository)
    try:
        side = side_of(commit, repository, same_environment)
    except NoData as error:
        raise UsageError(f"{revision} cannot be measured: {error}") from None
    kernel = replace(side, changes={"mechanism": REFERENCE_KERNEL})
    facts = environment.identity(device_of(cases), 1, True)
    now = time.time()
    when = commit_time(commit, repository)
    state = State(results / "track" / digest(["record", PROCEDURE, side.identity, facts], 16))
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
        measured = pairs_of[case.id]
        # the commit may have run in an environment of its own, which is not the one of this process
        of_case = {**facts, **measured[0]["versions"]["head"]}
        identity = environment.environment_id(of_case)
        measured_in[identity] = of_case
        values = {("latency", "s"): median(median(pair["head"]) for pair in measured)}
        values[RATIO_METRIC, "ratio"] = exp(median(pair["log_ratio"] for pair in measured))
        if clocks := clock_range(measured):
            values["GPU clock, lowest", CLOCK_UNIT], values["GPU clock, highest", CLOCK_UNIT] = clocks
        values |= {(name, COUNT_UNIT): value for name, value in measured[0]["counts"]["head"].items()}
        points += [
            Point(commit, when, case.name, identity, metric, value, unit, "cab track record", now)
            for (metric, unit), value in values.items()
        ]
    if not points:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise UsageError(f"nothing could be measured at {commit[:12]}: {reasons}")
    append(folder, points)
    for identity, of_case in measured_in.items():
        keep_environment(folder, identity, of_case)
    compact(folder)
    refresh(folder, measured_in, progress=progress)
    return commit, points, failures
