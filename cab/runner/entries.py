"""An entry of the store as it grows: one process's answer after another, reduced to values."""

import math
from types import NoneType
from typing import Any

from cab.contracts.case import worst
from cab.contracts.meter import Meter
from cab.environment import environment_id
from cab.planning.plan import Item
from cab.plugins import registry
from cab.runner.outcomes import Answer
from cab.store.store import FINAL, SCHEMA, now

_READING: dict[str, tuple[type, ...]] = {
    **{"value": (int, float), "ci_low": (int, float, NoneType), "ci_high": (int, float, NoneType)},
    **{"count": (int, NoneType), "processes": (int, NoneType), "converged": (bool, NoneType), "stop_reason": (str,)},
}


def new_entry(item: Item, run_id: str, commit: str) -> dict[str, Any]:
    """Begin an entry."""
    return {
        "schema": SCHEMA,
        "case": item.case.question(),
        "case_id": item.case.id,
        "meter": item.meter,
        "version": item.version,
        "key": item.key,
        "source": item.source,
        "grade": item.grade,
        "task_version": item.task_version,
        "hosted": item.hosted,
        "environment": item.identity,
        "environment_id": environment_id(item.identity),
        "run_id": run_id,
        "commit": commit,
        "time": "",
        "metrics": {},
        "processes": [],
    }


def finished(entry: dict[str, Any] | None, item: Item, processes: int | None = None) -> bool:
    """Whether an entry holds every metric of its item, from `processes` processes (all, by default)."""
    if entry is None or not set(item.metrics) <= set(entry["metrics"]):
        return False
    if any(entry["metrics"][name]["status"] in FINAL for name in item.metrics):
        return True
    return len(entry["processes"]) >= min(processes or item.processes, item.processes)


def statuses(entry: dict[str, Any]) -> tuple[str, str]:
    """Return an entry's worst status and its reason."""
    found = {m["status"]: m["reason"] for m in entry["metrics"].values()}
    status = worst(found)
    return status, found.get(status, "")


def merged(entry: dict[str, Any], item: Item, answer: Answer, details: dict[str, Any]) -> dict[str, Any]:
    """Return the entry with one more process's answer in it, and every value made anew of the samples."""
    entry = {**entry, "time": now(), "processes": list(entry["processes"])}
    given = answer.value.get("metrics", answer.value) if answer.status == "ok" else {}
    if answer.status == "ok":
        kept = {name: given[name] for name in item.metrics if name in given}
        entry["processes"].append({"metrics": kept, "details": details})
        for extra in ("curve", "best_step", "stopped", "floors"):
            if extra in answer.value:
                entry[extra] = answer.value[extra]
        for name, value in [pair for floor in entry.get("floors", {}).values() for pair in floor.items()]:
            if not isinstance(value, int | float):
                raise TypeError(f"floors: {name} is {value!r}")
        if "source" in answer.value:
            source = answer.value["source"]
            entry |= {"data_source": source["name"], "data": source, "split": "test"}
    entry["again"], entry["memory_limit"] = answer.again, item.memory_limit
    entry["metrics"] = {
        name: _metric(entry, item, name, unit, higher, answer) for name, (unit, higher) in item.metrics.items()
    }
    return entry


def _metric(
    entry: dict[str, Any], item: Item, name: str, unit: str, higher: bool | None, answer: Answer
) -> dict[str, Any]:
    about: dict[str, Any] = {"unit": unit, "higher_is_better": higher}
    if answer.status != "ok":
        status = "error" if answer.status == "usage" else answer.status
        return {**about, "status": status, "reason": answer.reason}
    processes = [p["metrics"][name] for p in entry["processes"] if name in p["metrics"]]
    if not processes:
        return {**about, "status": "error", "reason": f"the meter {item.meter} returned no {name}"}
    refused = [p for p in processes if "status" in p]  # a meter may give one of its metrics a status of its own
    if refused:
        return {**about, "status": refused[0]["status"], "reason": refused[0]["reason"]}
    meter = registry.load("meter", item.meter)()
    assert isinstance(meter, Meter)
    try:
        reading = meter.reduce(name, processes)
    except Exception as error:
        return {**about, "status": "error", "reason": f"reduce: {type(error).__name__}: {error}"}
    for what, kinds in _READING.items():
        found = getattr(reading, what)
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            return {**about, "status": "error", "reason": f"reduce: {what} of {name} is {found!r}"}
        if isinstance(found, float) and not math.isfinite(found):
            return {**about, "status": "error", "reason": f"reduce: {what} of {name} is {found}"}
    return {
        **about,
        "status": "ok",
        "reason": "",
        "value": reading.value,
        "ci_low": reading.ci_low,
        "ci_high": reading.ci_high,
        "count": reading.count,
        "processes": reading.processes,
        "converged": reading.converged,
        "stop_reason": reading.stop_reason or entry.get("stopped", ""),
    }
