"""Results of other tools as points of the history, and points as pytest-benchmark's JSON."""

import json
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any

from cab.contracts.case import digest
from cab.errors import UsageError
from cab.tracking.history import Point

_TO_SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}  # google/benchmark's units


def read_results(path: Path) -> tuple[list[Point], int]:
    """Read the JSON of pytest-benchmark, asv (one file of results) or google/benchmark; medians, where there are some.

    Return the points, and how many values are left out because they are no times, or because the benchmark failed.
    `UsageError` where the file is none of these.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # the second: nested too deeply
        raise UsageError(f"{path} is no JSON that can be read: {error}") from None
    readers = {"pytest-benchmark": _pytest_benchmark, "asv": _asv, "google/benchmark": _google}
    try:
        kind = _kind(data)
        if kind:
            read = list(readers[kind](data))
            return [point for point in read if point is not None], read.count(None)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UsageError(f"{path} looks like {kind}'s JSON, but cannot be read: {error!r}") from None
    raise UsageError(f"{path} is not the JSON of {', '.join(readers)}: write it with --benchmark-json, for example")


def _kind(data: Any) -> str:
    if not isinstance(data, dict):
        return ""
    if "machine_info" in data and "benchmarks" in data:
        return "pytest-benchmark"
    if "context" in data and "benchmarks" in data:
        return "google/benchmark"
    return "asv" if {"commit_hash", "results", "result_columns"} <= set(data) else ""


def _pytest_benchmark(data: dict[str, Any]) -> Iterator[Point | None]:
    commit = data["commit_info"]
    when = _seconds(commit.get("time") or data["datetime"])
    environment = digest(data["machine_info"], 12)
    for each in data["benchmarks"]:
        yield _point(commit["id"], when, each["fullname"], environment, each["stats"]["median"], "pytest-benchmark")


def _asv(data: dict[str, Any]) -> Iterator[Point | None]:
    environment = digest([data.get("params", {}), data.get("env_name", "")], 12)
    column = data["result_columns"].index("result")
    for name, row in data["results"].items():
        if not _is_time(name):
            yield None
            continue
        values = row[column] if isinstance(row, list) else row
        # one value a combination of parameters; those that failed are null
        for number, value in enumerate(values if isinstance(values, list) else [values]):
            case = name if not isinstance(values, list) or len(values) == 1 else f"{name} [{number}]"
            yield _point(data["commit_hash"], data["date"] / 1000, case, environment, value, "asv")


def _is_time(name: str) -> bool:
    """Whether asv takes a benchmark for one of time, as it does by the name of its function or class; others count."""
    return name.rpartition(".")[2].lower().startswith("time")


def _google(data: dict[str, Any]) -> Iterator[Point | None]:
    context = data["context"]
    environment = digest({key: context.get(key) for key in ("host_name", "num_cpus", "mhz_per_cpu")}, 12)
    rows = [row for row in data["benchmarks"] if row.get("aggregate_name", "median") == "median"]
    with_median = {row["run_name"] for row in rows if "aggregate_name" in row}
    for row in rows:
        if row.get("run_type") == "iteration" and row["run_name"] in with_median:
            continue
        failed = row.get("error_occurred") or row.get("skipped") or row["real_time"] is None
        value = None if failed else float(row["real_time"]) * _TO_SECONDS[row["time_unit"]]
        commit = context.get("commit") or context.get("git_commit") or f"unknown at {context['date']}"
        yield _point(commit, _seconds(context["date"]), row["run_name"], environment, value, "google/benchmark")


def _point(commit: str, when: float, case: str, environment: str, value: Any, source: str) -> Point | None:
    """Return a point; None where the value is no time that was measured: the benchmark failed."""
    if not isinstance(commit, str) or not isinstance(case, str):
        raise TypeError(f"the commit {commit!r} or the name {case!r} is no text")
    if not isinstance(value, int | float) or not isfinite(value) or value <= 0:
        return None
    return Point(commit, when, case, environment, "latency", float(value), "s", source, time.time())


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def as_pytest_benchmark(points: Sequence[Point]) -> str:
    """Write the points of one commit and environment as pytest-benchmark's JSON, for `pytest-benchmark compare`.

    One value a case is known, so all of its statistics are this value. `UsageError` for points of several commits.
    """
    commits, environments = {point.commit for point in points}, {point.environment for point in points}
    if len(commits) != 1 or len(environments) != 1:
        raise UsageError(f"a file is of one commit on one machine, not of {len(commits)} on {len(environments)}")
    if all(point.unit != "s" for point in points):
        raise UsageError("none of these points is a time, and pytest-benchmark's JSON holds times alone")
    first = points[0]
    names = ("min", "max", "mean", "median", "q1", "q3", "ld15iqr", "hd15iqr")
    benchmarks = [
        {
            "group": None,
            "name": point.case,
            "fullname": point.case,
            "params": None,
            "param": None,
            "extra_info": {"environment": point.environment, "source": point.source},
            "options": {},
            "stats": {
                **dict.fromkeys(names, point.value),
                **dict.fromkeys(("stddev", "iqr", "iqr_outliers", "stddev_outliers"), 0),
                **{
                    "outliers": "0;0",
                    "ops": 1 / point.value if point.value else 0,
                    "total": point.value,
                    "rounds": 1,
                    "iterations": 1,
                },
            },
        }
        for point in points
        if point.unit == "s"
    ]
    when = datetime.fromtimestamp(first.time).astimezone().isoformat()
    commit = {"id": first.commit, "time": when, "author_time": when, "dirty": False, "project": "cab", "branch": ""}
    machine = {"node": first.environment, "cpu": {}}
    return json.dumps(
        {
            "machine_info": machine,
            "commit_info": commit,
            "benchmarks": benchmarks,
            "datetime": when,
            "version": "5.3.1",
        },
        indent=1,
    )


def as_otava(points: Sequence[Point]) -> tuple[str, list[str]]:
    """Write the points of one environment, in the order of their commits, as the JSON that Apache Otava analyses.

    Its reader takes the values of a metric by position, so a metric that a commit lacks would be shifted: only those
    that every commit has are written. Return the text, and the names of the metrics that are left out. `UsageError` for
    points of several environments, and where no metric is left.
    """
    if len(environments := {point.environment for point in points}) != 1:
        raise UsageError(f"a history is of one machine, not of {len(environments)}: give --environment")
    values: dict[tuple[float, str], dict[str, float]] = {}
    for point in points:
        values.setdefault((point.time, point.commit), {})[f"{point.case}, {point.metric}"] = point.value
    names = sorted({name for row in values.values() for name in row})
    kept = [name for name in names if all(name in row for row in values.values())]
    if not kept:
        raise UsageError("no metric of these points is there at every commit, as Otava needs it")
    rows = [
        {
            "timestamp": int(when),
            "metrics": [{"name": name, "value": row[name]} for name in kept],
            "attributes": {"commit": commit},
        }
        for (when, commit), row in sorted(values.items())
    ]
    return json.dumps(rows, indent=1), [name for name in names if name not in kept]
