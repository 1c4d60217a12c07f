"""How an entry of the store grows: by one process's outcome after another, and the values reduced from all of them."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import Any

from cab.contracts.case import worst
from cab.contracts.messages import Samples, TrainAnswer
from cab.contracts.meter import Meter, Reading
from cab.environment import environment_id
from cab.planning.measurement import Measurement
from cab.plugins import registry
from cab.runner.outcomes import Outcome
from cab.store.entry import FINAL, SCHEMA, Entry, MetricResult, ProcessRecord
from cab.store.store import now

_READING_TYPES: dict[str, tuple[type, ...]] = {
    "value": (int, float),
    "ci_low": (int, float, NoneType),
    "ci_high": (int, float, NoneType),
    "count": (int, NoneType),
    "processes": (int, NoneType),
    "converged": (bool, NoneType),
    "stop_reason": (str,),
}


def new_entry(measurement: Measurement, run_id: str, commit: str) -> Entry:
    """Return an entry of a measurement that no process has run for yet."""
    return Entry(
        schema=SCHEMA,
        case=measurement.case,
        case_id=measurement.case.id,
        meter=measurement.meter,
        version=measurement.version,
        key=measurement.key,
        source=measurement.source,
        grade=measurement.grade,
        task_version=measurement.task_version,
        protocol=measurement.protocol,
        hosted=measurement.hosted,
        environment=measurement.identity,
        environment_id=environment_id(measurement.identity),
        run_id=run_id,
        commit=commit,
        time="",
        metrics={},
        processes=(),
    )


def is_finished(entry: Entry | None, measurement: Measurement, processes: int | None = None) -> bool:
    """Whether an entry holds every metric that is asked for, from `processes` processes (all, by default).

    Whether more are needed is decided once, with all of the usual number: one that may stop at any time stops where the
    interval happens to be narrow.
    """
    if entry is None or not set(measurement.metrics) <= set(entry.metrics):
        return False
    if any(entry.metrics[name].status in FINAL for name in measurement.metrics):
        return True
    wanted = _wanted(entry, measurement)
    return len(entry.processes) >= min(processes or wanted, wanted)


def left(entry: Entry | None, measurement: Measurement) -> int:
    """Return how many processes a measurement still takes as far as its entry tells, 0 where it is finished."""
    if is_finished(entry, measurement):
        return 0
    return max(1, _wanted(entry, measurement) - len(entry.processes)) if entry else measurement.processes


def _wanted(entry: Entry, measurement: Measurement) -> int:
    """Return how many processes a value takes: the usual number, or with it and a wide interval the most."""
    done, metrics = len(entry.processes), entry.metrics
    wide = any(name in metrics and metrics[name].converged is False for name in measurement.metrics)
    more = done > measurement.processes or (done == measurement.processes and wide)
    return measurement.most_processes if more else measurement.processes


def worst_status(entry: Entry) -> tuple[str, str]:
    """Return an entry's worst status and its reason."""
    reasons = {metric.status: metric.reason for metric in entry.metrics.values()}
    status = worst(reasons)
    return status, reasons.get(status, "")


def with_outcome(entry: Entry, measurement: Measurement, outcome: Outcome, details: Mapping[str, Any]) -> Entry:
    """Return the entry with one more process's outcome, and its values reduced from the samples of all.

    `details` say how the machine was. Raises whatever a meter's or a training's answer of another shape leads to.
    """
    entry = replace(entry, time=now(), again=outcome.again, memory_limit=measurement.memory_limit)
    if outcome.status == "ok":
        answer: Samples | TrainAnswer = outcome.answer
        asked = {name: answer.metrics[name] for name in measurement.metrics if name in answer.metrics}
        entry = replace(entry, processes=(*entry.processes, ProcessRecord(asked, dict(details))))
        if isinstance(answer, TrainAnswer):
            entry = _with_training(entry, answer)
    results = {
        name: _result(entry, measurement, name, unit, higher_is_better, outcome)
        for name, (unit, higher_is_better) in measurement.metrics.items()
    }
    return replace(entry, metrics=results)


def _with_training(entry: Entry, answer: TrainAnswer) -> Entry:
    for values in answer.floors.values():
        for name, value in values.items():
            if not isinstance(value, int | float):
                raise TypeError(f"floors: {name} is {value!r}")
    return replace(
        entry,
        curve=tuple(answer.curve),
        best_step=answer.best_step,
        stopped=answer.stopped,
        floors=answer.floors,
        data_source=answer.source["name"],
        data=answer.source,
        split="test",
    )


def _result(
    entry: Entry, measurement: Measurement, name: str, unit: str, higher_is_better: bool | None, outcome: Outcome
) -> MetricResult:
    """Reduce the samples of all processes to one metric's result."""

    def without_value(status: str, reason: str) -> MetricResult:
        return MetricResult(unit, higher_is_better, status, reason)

    if outcome.status != "ok":
        return without_value("error" if outcome.status == "usage" else outcome.status, outcome.reason)
    processes = [process.metrics[name] for process in entry.processes if name in process.metrics]
    if not processes:
        return without_value("error", f"the meter {measurement.meter} returned no {name}")
    failed = [process for process in processes if "status" in process]  # a meter may give one metric a status
    if failed:
        return without_value(failed[0]["status"], failed[0]["reason"])
    meter = registry.load("meter", measurement.meter)()
    assert isinstance(meter, Meter)
    try:
        reading = meter.reduce(name, processes)
    except Exception as error:
        return without_value("error", f"reduce: {type(error).__name__}: {error}")
    wrong = _wrong_field(reading)
    if wrong:
        return without_value("error", f"reduce: {wrong[0]} of {name} is {wrong[1]}")
    return MetricResult(
        unit,
        higher_is_better,
        "ok",
        value=reading.value,
        ci_low=reading.ci_low,
        ci_high=reading.ci_high,
        count=reading.count,
        processes=reading.processes,
        converged=reading.converged,
        stop_reason=reading.stop_reason or entry.stopped or "",
    )


def _wrong_field(reading: Reading) -> tuple[str, str] | None:
    """Return the first field of a reading that is of another type or not finite, and its value as text."""
    for field, types in _READING_TYPES.items():
        value = getattr(reading, field)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            return field, repr(value)
        if isinstance(value, float) and not math.isfinite(value):
            return field, str(value)
    return None
