"""How long a plan would take and what would not fit: a child's forecasts at the pace of past rows.

Imports no torch.
"""

from collections import defaultdict
from dataclasses import dataclass
from math import inf

from cab import environment
from cab.contracts.case import Case
from cab.contracts.messages import CaseForecast, Failure, ForecastAnswer, ForecastJob
from cab.contracts.recipe import Recipe
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import Plan
from cab.runner.entries import is_finished, left
from cab.runner.fork_client import ForkClient
from cab.runner.supervisor import Options, counts
from cab.store.entry import Entry
from cab.store.store import Store

CHILD_SECONDS = 0.1  # what a child costs beside what it measures
TIMING_SECONDS = 0.15  # warm-up and samples of one timing process, at least
TIMING_CALLS = 15  # of a timing process whose call is slow
CHECKED_CALLS = 4  # of a process that checks its case and then measures something else than time
USUAL_PACE = 0.1  # share of the machine's rate that an attention's products reach, where no past row says better
LEAST_PACE = 0.01  # a past row below this was short: its time was not its operations'
FORECAST_SECONDS = 600.0  # the deadline of the forecasting child

Kind = tuple[str, ...]  # what cases of one pace have in common


@dataclass(frozen=True)
class Estimate:
    """What one case is expected to take; None where nothing is known."""

    case: Case
    seconds: float | None  # of everything that is still to be run
    bytes: float | None  # peak of one pass
    basis: str  # what the estimate rests on, or why there is none
    fits: bool = True  # into the memory limit, and on the CPU into what is free


def estimate(plan: Plan, store: Store, options: Options) -> list[Estimate]:
    """Estimate what is still to be run of each case, in a run with these options.

    A child counts the operations on meta tensors, and past latencies set the pace. `UsageError` where the child fails.
    """
    by_case: dict[str, list[Measurement]] = defaultdict(list)
    for measurement in plan.measurements:
        if not measurement.refusal:
            by_case[measurement.case.id].append(measurement)
    cases = [case for case in plan.cases if case.id in by_case]
    job = ForecastJob(cases, str(options.data), environment.usable_cores())
    with ForkClient() as client:
        ending = client.run(job, FORECAST_SECONDS, None)
    forecast = ending.answer
    if not isinstance(forecast, ForecastAnswer):
        why = forecast.reason if isinstance(forecast, Failure) else f"the child ended: {ending.exit.why}"
        raise UsageError(f"nothing could be estimated: {why}")
    paces = _paces(store, forecast.rate)
    return [
        _estimate(
            case, by_case[case.id], store, options, forecast.cases[case.id], forecast.rate, paces.get(_kind(case))
        )
        for case in cases
    ]


def _estimate(
    case: Case,
    measurements: list[Measurement],
    store: Store,
    options: Options,
    forecast: CaseForecast,
    rate: float,
    pace: float | None,
) -> Estimate:
    if forecast.flops is None or forecast.bytes is None:
        return Estimate(case, None, None, forecast.reason)
    if pace is None and case.device != "cpu":
        return Estimate(case, None, None, f"no past row of this kind on {case.device}")
    call = forecast.flops / (rate * (USUAL_PACE if pace is None else pace))  # seconds of one pass
    by_work: dict[str, float] = {}  # one training serves its scores and all meters of the trained model
    for measurement in measurements:
        work, entry = measurement.training or measurement.file, store.read(measurement.file)
        known = entry if counts(entry, measurement, options) else None
        by_work[work] = max(by_work.get(work, 0.0), _seconds(measurement, known, call))
    seconds = sum(by_work.values())
    limits = [float(measurement.memory_limit) for measurement in measurements if measurement.memory_limit]
    if case.device == "cpu":
        limits.append(environment.available_memory())
    basis = "meta tensors" + (", past rows" if pace is not None else ", a guessed pace")
    return Estimate(case, seconds, forecast.bytes, basis, fits=forecast.bytes < min(limits, default=inf))


def _seconds(measurement: Measurement, entry: Entry | None, call: float) -> float:
    """Return how long what is missing of a measurement takes, where one pass takes `call` seconds."""
    if is_finished(entry, measurement):
        return 0.0
    if measurement.trains:
        recipe = Recipe.of(measurement.case.settings["training"])
        return CHILD_SECONDS + call * (recipe.steps + (recipe.pretraining.steps if recipe.pretrain else 0))
    of_process = CHILD_SECONDS
    if measurement.meter == "latency":
        of_process += max(TIMING_SECONDS, TIMING_CALLS * call)
    elif measurement.hosted:  # what is counted on meta tensors runs nothing
        of_process += CHECKED_CALLS * call
    return of_process * left(entry, measurement)


def _paces(store: Store, rate: float) -> dict[Kind, float]:
    """Return, for each kind of case, the best share of the machine's rate that past timings reached.

    It is the best, because a short case's time is mostly not its operations and says nothing of a long one's.
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
    shares: dict[Kind, list[float]] = defaultdict(list)
    for case_id, (case, seconds) in latencies.items():
        if flops.get(case_id):
            shares[_kind(case)].append(flops[case_id] / seconds / rate)
    return {kind: max(LEAST_PACE, *values) for kind, values in shares.items()}


def _kind(case: Case) -> Kind:
    threads = str(case.settings.get("threads"))
    return (case.mechanism, case.pattern, case.backend, case.level, case.pass_, case.dtype, case.device, threads)
