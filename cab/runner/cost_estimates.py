"""How long a plan would take and what would not fit: forecasts of a child, corrected by past rows. Imports no torch."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import Case
from cab.contracts.messages import CaseForecast, Failure, ForecastAnswer, ForecastJob
from cab.contracts.recipe import Recipe
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import Plan
from cab.runner.entries import is_finished
from cab.runner.fork_client import ForkClient
from cab.store.store import Store

CHILD = 0.1  # seconds that a child costs beside what it measures
TIMED = 0.15  # seconds of warm-up and samples of one timing process, at least
CALLS = 15  # calls of a timing process whose call is slow
SHARE = 0.1  # of the rate of a large product that an attention's products reach, where no past row says better
LEAST_SHARE = 0.01  # a past row below this was short: its time was not its operations'
SECONDS = 600.0


@dataclass(frozen=True)
class Estimate:
    """What one case is expected to take. `basis` says what it rests on; None where nothing is known."""

    case: Case
    seconds: float | None  # of everything that is still to be run
    bytes: float | None  # peak of one pass
    basis: str
    fits: bool = True


def estimate(plan: Plan, store: Store, data: Path) -> list[Estimate]:
    """Estimate what is still to be run of each case; a child counts on meta tensors, past latencies set the pace."""
    of_case: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in plan.measurements:
        if not measurement.refusal:
            of_case[measurement.case.id].append(measurement)
    cases = [case for case in plan.cases if case.id in of_case]
    job = ForecastJob(cases, str(data), environment.usable_cores())
    with ForkClient() as client:
        ending = client.run(job, SECONDS, None)
    forecast = ending.answer
    if not isinstance(forecast, ForecastAnswer):
        why = forecast.reason if isinstance(forecast, Failure) else f"the child ended: {ending.exit.why}"
        raise UsageError(f"nothing could be estimated: {why}")
    paces = _paces(store, forecast.rate)
    return [_of(case, of_case[case.id], store, forecast.cases[case.id], forecast.rate, paces) for case in cases]


def _of(
    case: Case,
    measurements: list[Measurement],
    store: Store,
    forecast: CaseForecast,
    rate: float,
    paces: dict[Any, float],
) -> Estimate:
    if forecast.flops is None or forecast.bytes is None:
        return Estimate(case, None, None, forecast.reason)
    pace = paces.get(_kind(case))
    if pace is None and case.device != "cpu":
        return Estimate(case, None, None, f"no past row of this kind on {case.device}")
    call = forecast.flops / (rate * (SHARE if pace is None else pace))  # seconds of one pass
    total = 0.0
    for measurement in measurements:
        entry = store.read(measurement.file)
        if is_finished(entry, measurement):
            continue
        processes = measurement.processes - (len(entry.processes) if entry else 0)
        if measurement.trains:
            recipe = Recipe.of(case.settings["training"])
            total += CHILD + call * (recipe.steps + (recipe.pretraining.steps if recipe.pretrain else 0))
        elif measurement.meter == "latency":
            total += processes * (CHILD + max(TIMED, CALLS * call))
        else:
            total += processes * (CHILD + 4 * call * measurement.hosted)
    limits = [measurement.memory_limit for measurement in measurements if measurement.memory_limit]
    room = min([*limits, *([environment.available_memory()] if case.device == "cpu" else [])], default=float("inf"))
    basis = "meta tensors" + (", past rows" if pace is not None else ", a guessed pace")
    return Estimate(case, total, forecast.bytes, basis, forecast.bytes < room)


def _paces(store: Store, rate: float) -> dict[Any, float]:
    """Return, per mechanism, pattern, level and pass, the best share of the machine's rate that past timings reached.

    The best, because a short case's time is mostly not its operations and says nothing of a long one's.
    """
    flops: dict[str, float] = {}
    latencies: dict[str, tuple[Case, float]] = {}
    host = environment.identity("cpu", None, False)["host"]
    for _, entry in store.entries() if store.folder.is_dir() else ():
        if entry.environment.get("host") != host:
            continue
        for name, metric in entry.metrics.items():
            if metric.status == "ok" and metric.value is not None:
                if name == "flops_counted":
                    flops[entry.case_id] = metric.value
                elif name == "latency":
                    latencies[entry.case_id] = (entry.case, metric.value)
    shares: dict[Any, list[float]] = defaultdict(list)
    for name, (case, seconds) in latencies.items():
        if flops.get(name):
            shares[_kind(case)].append(flops[name] / seconds / rate)
    return {kind: max(LEAST_SHARE, *values) for kind, values in shares.items()}


def _kind(case: Case) -> tuple[str, ...]:
    threads = str(case.settings.get("threads"))
    return (case.mechanism, case.pattern, case.backend, case.level, case.pass_, case.dtype, case.device, threads)
