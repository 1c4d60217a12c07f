"""An entry of the store: one meter on one case, with the raw samples of every process and the values made of them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cab.contracts.case import STATUSES, Case
from cab.errors import UsageError

SCHEMA = 1
FINAL = ("wrong", "error", "timeout", "oom", "unsupported", "skipped")  # with one of these no other process is started
# what every file of the store holds, as JSON has it
_REQUIRED_TYPES: dict[str, type] = {
    "schema": int,
    "case": dict,
    "case_id": str,
    "meter": str,
    "key": str,
    "environment": dict,
    "environment_id": str,
    "run_id": str,
    "time": str,
    "metrics": dict,
    "processes": list,
}
_TRAINING_FIELDS = ("curve", "best_step", "stopped", "floors", "data_source", "data", "split")


@dataclass(frozen=True)
class MetricResult:
    """One metric of an entry: its status, and where that is `ok` its value with interval."""

    unit: str
    higher_is_better: bool | None
    status: str
    reason: str = ""
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    count: int | None = None  # samples
    processes: int | None = None
    converged: bool | None = None
    stop_reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the result as it is written; the fields that describe a value only where there is one."""
        if self.status == "ok":
            return asdict(self)
        return {name: getattr(self, name) for name in ("unit", "higher_is_better", "status", "reason")}


@dataclass(frozen=True)
class ProcessRecord:
    """What one process returned, and the state of the machine at its end."""

    metrics: Mapping[str, dict[str, Any]]  # metric -> {"samples": [numbers], ...}, or {"status": ..., "reason": ...}
    details: Mapping[str, Any] = field(default_factory=dict)  # clock, load, time


@dataclass(frozen=True)
class Entry:
    """One file of the store."""

    schema: int
    case: Case
    case_id: str
    meter: str
    key: str  # the hash of what the result depends on besides the case
    environment: Mapping[str, Any]
    environment_id: str
    run_id: str
    time: str
    metrics: Mapping[str, MetricResult]
    processes: tuple[ProcessRecord, ...]
    version: int = 1  # of the meter's method
    source: str = ""  # fingerprint of mechanism and task
    grade: str = ""
    task_version: int | None = None
    protocol: str = ""  # where the task departs from what was published of it
    hosted: bool = True  # whether the host matters
    commit: str = ""
    # of trainings alone: the next seven
    curve: tuple[dict[str, Any], ...] = ()  # validations, one a step
    best_step: int | None = None
    stopped: str | None = None  # why it stopped before its last step
    floors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # name -> metric -> value, without a model
    data_source: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)  # name, comparable, counts and note of the data
    split: str | None = None  # that was scored
    again: bool = False  # the next run measures anew
    memory_limit: int | None = None  # bytes
    asked: str | None = None  # when a run asked for it last, where that was after `time`

    @property
    def file(self) -> str:
        """Name the file that holds the entry."""
        return f"{self.case_id}-{self.key}"

    @property
    def statuses(self) -> set[str]:
        """Return the statuses of the metrics."""
        return {metric.status for metric in self.metrics.values()}

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it is written."""
        data: dict[str, Any] = {
            "schema": self.schema,
            "case": self.case.question(),
            "case_id": self.case_id,
            "meter": self.meter,
            "version": self.version,
            "key": self.key,
            "source": self.source,
            "grade": self.grade,
            "task_version": self.task_version,
            "protocol": self.protocol,
            "hosted": self.hosted,
            "environment": dict(self.environment),
            "environment_id": self.environment_id,
            "run_id": self.run_id,
            "commit": self.commit,
            "time": self.time,
            "metrics": {name: metric.to_json() for name, metric in self.metrics.items()},
            "processes": [{"metrics": dict(p.metrics), "details": dict(p.details)} for p in self.processes],
        }
        if self.data_source is not None:  # a training
            data |= {name: getattr(self, name) for name in _TRAINING_FIELDS}
        data |= {"again": self.again, "memory_limit": self.memory_limit}
        return data if self.asked is None else data | {"asked": self.asked}

    def to_text(self) -> str:
        """Return the text of its file; `ValueError` or `TypeError` where JSON cannot hold it."""
        return json.dumps(self.to_json(), allow_nan=False)

    @classmethod
    def from_json(cls, data: Any) -> "Entry":
        """Read an entry; `ValueError` where `data` is none, `UsageError` where it is of another schema."""
        if not isinstance(data, dict):
            raise ValueError("not an entry: an object is needed")
        for name, kind in _REQUIRED_TYPES.items():
            if not isinstance(data.get(name), kind):
                raise ValueError(f"not an entry: {name} is no {kind.__name__}")
        if data["schema"] != SCHEMA:
            raise UsageError(
                f"an entry of schema {data['schema']}, and this version of cab reads schema {SCHEMA}: use the version "
                "that wrote it, or another folder (--results DIR)"
            )
        known = {name: data[name] for name in _FIELDS if name in data}
        try:
            known["case"] = Case.of(data["case"])
            known["metrics"] = {name: MetricResult(**metric) for name, metric in data["metrics"].items()}
            known["processes"] = tuple(ProcessRecord(**process) for process in data["processes"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an entry: {error}") from error
        for name, metric in known["metrics"].items():
            if metric.status not in STATUSES:
                raise ValueError(f"not an entry: {name} has the status {metric.status!r}")
        return cls(**known)


# asked of the class for each of 100,000 entries they would take seconds
_FIELDS = tuple(field.name for field in fields(Entry))
