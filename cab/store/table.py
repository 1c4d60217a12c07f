"""The tidy table of a store: one row a case and metric.

`rows.parquet` is a cache of the store's files, deletable at any time.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.contracts.case import canonical
from cab.paths import write_whole
from cab.store.entry import Entry, MetricResult
from cab.store.store import Store, now

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "schema case_id run_id time commit status reason mechanism params pattern grade task task_version data_source "
    "protocol split level pass batch heads dim n m dtype device backend seed scale step settings metric unit "
    "higher_is_better value ci_low ci_high count processes converged stop_reason environment_id"
).split()
CASE_COLUMNS = "mechanism pattern task level pass batch heads dim n m dtype device backend seed scale".split()
_EXTRA = ["file", "stamp", "meter", "hosted", "version", "asked"]


def rows(entry: Entry) -> list[dict[str, Any]]:
    """Return the tidy rows of an entry: one a metric, one a floor, and one a metric and step of a learning curve."""
    question = entry.case.question()
    common = {
        "schema": entry.schema,
        "case_id": entry.case_id,
        "run_id": entry.run_id,
        "time": entry.time,
        "commit": entry.commit,
        "grade": entry.grade,
        "task_version": entry.task_version,
        "data_source": _data_source(entry),
        "protocol": entry.case.task_params.get("protocol", ""),
        "split": entry.split or "",
        "params": canonical(entry.case.params),
        "settings": canonical({"task": entry.case.task_params, **entry.case.settings}),
        "environment_id": entry.environment_id,
        "step": None,
        **{name: question[name] for name in CASE_COLUMNS},
    }
    tidy = [{**common, "metric": name, **_result(metric)} for name, metric in entry.metrics.items()]
    # what needs no mechanism stands among them under its own name, with the grade "floor"
    for floor, values in entry.floors.items():
        named = {**common, "mechanism": floor, "params": "{}", "grade": "floor", "backend": ""}
        tidy += [{**named, **_value(entry, metric, value)} for metric, value in values.items()]
    for point in entry.curve:
        at_step = {**common, "step": point["step"], "split": "validation"}
        tidy += [{**at_step, **_value(entry, metric, value)} for metric, value in point.get("validation", {}).items()]
    return tidy


def _result(metric: MetricResult) -> dict[str, Any]:
    """Return the columns that a metric's own result fills."""
    return {
        "status": metric.status,
        "reason": metric.reason,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "value": metric.value,
        "ci_low": metric.ci_low,
        "ci_high": metric.ci_high,
        "count": metric.count,
        "processes": metric.processes,
        "converged": metric.converged,
        "stop_reason": metric.stop_reason if metric.status == "ok" else None,
    }


def _value(entry: Entry, metric: str, value: float) -> dict[str, Any]:
    """Return the columns of a bare value of one of the entry's metrics."""
    about = entry.metrics.get(metric)
    return {
        "metric": metric,
        "status": "ok",
        "reason": "",
        "unit": about.unit if about else None,
        "higher_is_better": about.higher_is_better if about else None,
        "value": value,
    }


def _data_source(entry: Entry) -> str:
    """Name the data of an entry, with the remark that goes with every number from it."""
    comparable = entry.data.get("comparable", True)
    return (entry.data_source or "") + ("" if comparable else " (not comparable with published numbers)")


def table(store: Store, history: bool = False, files: Collection[str] | None = None) -> "pd.DataFrame":
    """Return the tidy table of a store; without `history`, of each question only the newest answer an environment.

    Of a meter that has been measured by another method since, older numbers are history: the two are not compared.
    With `files` (as of `Measurement.file`), these alone: what a plan asks for, even if something else was measured later.
    """
    everything = _everything(store)
    if files is not None:
        everything = everything[everything["file"].isin(list(files))]
    elif not history:
        everything = _newest(everything)
    return everything[COLUMNS].sort_values(["time", "case_id", "metric"], kind="stable").reset_index(drop=True)


def outdated(store: Store) -> dict[str, int]:
    """Return of each meter how many cases it has answered by an older method alone, so that no table shows them."""
    everything = _everything(store)
    newest = everything.groupby("meter")["version"].transform("max")
    of_case = everything.groupby(["meter", "case_id"])["version"].transform("max")
    counts = everything[of_case < newest].groupby("meter")["case_id"].nunique()
    return {str(meter): int(count) for meter, count in counts.items()}


def _everything(store: Store) -> "pd.DataFrame":
    """Return the rows of all files, with what they are told apart by; of files that did not change, the cached ones."""
    import pandas as pd

    cached = _cached(store.folder)
    paths = {path.stem: path for path in (store.folder / "cases").glob("??/*.json")}
    stamps = {file: path.stat().st_mtime_ns for file, path in paths.items() if path.is_file()}
    unchanged = [stamps.get(f) == s for f, s in zip(cached["file"], cached["stamp"], strict=True)]
    fresh = cached.loc[unchanged] if unchanged else cached  # an empty list would select no column
    known = set(fresh["file"])
    new = []
    for file in sorted(set(stamps) - known):
        entry = store.load(paths[file])
        if entry is not None:
            extra = {"file": file, "stamp": stamps[file], "meter": entry.meter, "hosted": entry.hosted}
            extra |= {"version": entry.version, "asked": entry.asked or entry.time}
            try:
                new += [{**row, **extra} for row in rows(entry)]
            except (AttributeError, KeyError, TypeError):  # a curve or a floor of another shape
                store.set_aside(paths[file])
    everything = _fitting(new, store, paths)
    if len(fresh):
        everything = pd.concat([fresh, everything], ignore_index=True) if len(everything) else fresh
    if new or len(fresh) != len(cached):
        _keep(everything, store.folder)
    return everything


def environments(store: Store) -> "pd.DataFrame":
    """Return the environments of a store, one a line."""
    import pandas as pd

    by_id: dict[str, dict[str, Any]] = {}
    for _, entry in store.entries():
        by_id.setdefault(entry.environment_id, {"environment_id": entry.environment_id, **entry.environment})
    return pd.DataFrame(list(by_id.values()), columns=None if by_id else ["environment_id"])


def make_current(store: Store, files: Collection[str]) -> None:
    """Let what these files hold be what a table shows, where others have answered their questions since.

    After an edit has been undone, what a run asks for was measured before the edit was.
    """
    everything = _everything(store)
    older = set(everything.loc[everything["file"].isin(list(files)), "file"]) - set(_newest(everything)["file"])
    for file in sorted(older):
        entry = store.read(file)
        if entry is not None:
            store.write(replace(entry, asked=now()))


def _newest(everything: "pd.DataFrame") -> "pd.DataFrame":
    """Keep, of each case and meter, the file asked for last; where the host matters, of each environment."""
    everything = everything[everything["version"] == everything.groupby("meter")["version"].transform("max")]
    where = everything["environment_id"].where(everything["hosted"].astype(bool), "")
    asked = everything["asked"] + " " + everything["stamp"].astype("string").str.zfill(20)  # two in one second
    return everything[asked == asked.groupby([everything["case_id"], everything["meter"], where]).transform("max")]


def _fitting(new: list[dict[str, Any]], store: Store, paths: dict[str, Path]) -> "pd.DataFrame":
    """Make a table of rows; a file with a value of another type than its column's is damaged, and is set aside."""
    import pandas as pd

    def table_of(rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
        return _typed(pd.DataFrame(rows, columns=[*COLUMNS, *_EXTRA]))

    try:
        return table_of(new)
    except (TypeError, ValueError, OverflowError):  # a text that is no Unicode is a ValueError
        fitting = []
        for file, of_file in groupby(new, key=lambda row: row["file"]):
            rows = list(of_file)
            try:
                table_of(rows)
            except (TypeError, ValueError, OverflowError):
                store.set_aside(paths[file])
            else:
                fitting += rows
        return table_of(fitting)


def _typed(frame: "pd.DataFrame") -> "pd.DataFrame":
    kinds = {
        **dict.fromkeys(("value", "ci_low", "ci_high"), "float64"),
        **dict.fromkeys(("step", "count", "processes", "task_version"), "Int64"),
        **dict.fromkeys(("converged", "higher_is_better"), "boolean"),
        **dict.fromkeys(("schema", "batch", "heads", "dim", "n", "m", "seed", "stamp", "version"), "int64"),
        "hosted": "bool",
    }
    return frame.astype({name: kinds.get(name, "string") for name in frame.columns})


def _cached(folder: Path) -> "pd.DataFrame":
    import pandas as pd

    empty = _typed(pd.DataFrame([], columns=[*COLUMNS, *_EXTRA]))
    try:
        frame = pd.read_parquet(folder / "rows.parquet")
        return _typed(frame) if list(frame.columns) == list(empty.columns) else empty
    except Exception:  # a cache: whatever is wrong with it, the files are read instead
        return empty


def _keep(frame: "pd.DataFrame", folder: Path) -> None:
    with suppress(OSError):  # a results folder of somebody else's, read only: the next report reads the files again
        write_whole(folder / "rows.parquet", frame.to_parquet())
