"""The tidy table of a store: one row for each case and metric.

`rows.parquet` is a cache of the store's files, and may be deleted at any time.
"""

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cab.contracts.case import canonical, worst
from cab.paths import write_whole
from cab.store import controls, node_exclusion
from cab.store.entry import Entry, MetricResult
from cab.store.store import Store, now

if TYPE_CHECKING:
    import pandas as pd

_DTYPES = {
    "schema": "int64",
    "case_id": "string",
    "run_id": "string",
    "time": "string",
    "commit": "string",
    "status": "string",
    "reason": "string",
    "mechanism": "string",
    "params": "string",
    "pattern": "string",
    "grade": "string",
    "task": "string",
    "task_version": "Int64",
    "data_source": "string",
    "protocol": "string",
    "split": "string",
    "level": "string",
    "pass": "string",
    "batch": "int64",
    "heads": "int64",
    "dim": "int64",
    "n": "int64",
    "m": "int64",
    "dtype": "string",
    "device": "string",
    "backend": "string",
    "seed": "int64",
    "scale": "string",
    "step": "Int64",
    "settings": "string",
    "metric": "string",
    "unit": "string",
    "higher_is_better": "boolean",
    "value": "float64",
    "ci_low": "float64",
    "ci_high": "float64",
    "count": "Int64",
    "processes": "Int64",
    "converged": "boolean",
    "stop_reason": "string",
    "environment_id": "string",
}
COLUMNS = [*_DTYPES, "control_drift"]
LATER_COLUMNS = ("control_drift",)  # that bundles of earlier versions do not have
CASE_COLUMNS = "mechanism pattern task level pass batch heads dim n m dtype device backend seed scale".split()
# what the cache holds of a row beside its columns, to tell which file it is of and which rows are the newest
_CACHE_DTYPES = {
    **_DTYPES,
    "file": "string",
    "stamp": "int64",
    "meter": "string",
    "hosted": "bool",
    "version": "int64",
    "asked": "string",
    "medians": "string",
    "bundles": "string",
}
# pandas' errors for a value of another type than its column's; for a text that is no Unicode, a ValueError
_MISFITS = (TypeError, ValueError, OverflowError)


def rows(entry: Entry) -> list[dict[str, Any]]:
    """Return the tidy rows of an entry: of its metrics, its floors and the steps of its learning curve."""
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
        "protocol": entry.protocol or entry.case.task_params.get("protocol", ""),
        "split": entry.split or "",
        "params": canonical(entry.case.params),
        "settings": canonical({"task": entry.case.task_params, **entry.case.settings}),
        "environment_id": entry.environment_id,
        "step": None,
        **{name: question[name] for name in CASE_COLUMNS},
    }
    tidy = [{**common, "metric": name, **_result_columns(metric)} for name, metric in entry.metrics.items()]
    # what needs no mechanism stands among them under its own name, with the grade "floor"
    for floor, values in entry.floors.items():
        of_floor = {**common, "mechanism": floor, "params": "{}", "grade": "floor", "backend": ""}
        tidy += [{**of_floor, **_value_columns(entry, metric, value)} for metric, value in values.items()]
    for validation in entry.curve:
        at_step = {**common, "step": validation["step"], "split": "validation"}
        values = validation.get("validation", {})
        tidy += [{**at_step, **_value_columns(entry, metric, value)} for metric, value in values.items()]
    return tidy


def _result_columns(metric: MetricResult) -> dict[str, Any]:
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


def _value_columns(entry: Entry, metric: str, value: float) -> dict[str, Any]:
    """Return the columns that a value without an interval fills; its unit is that of the entry's metric."""
    result = entry.metrics.get(metric)
    return {
        "metric": metric,
        "status": "ok",
        "reason": "",
        "unit": result.unit if result else None,
        "higher_is_better": result.higher_is_better if result else None,
        "value": value,
    }


def _data_source(entry: Entry) -> str:
    """Name the data of an entry, with the remark that goes with every number from it."""
    comparable = entry.data.get("comparable", True)
    return (entry.data_source or "") + ("" if comparable else " (not comparable with published numbers)")


def table(store: Store, history: bool = False, files: Collection[str] | None = None) -> "pd.DataFrame":
    """Return the tidy table of a store.

    Without `history` it holds, of each case and metric, only the newest answer of each environment. Where a meter has
    changed its method, the numbers of the older method are history, because the two cannot be compared.
    With `files` (as of `Measurement.file`) it holds these alone: what a plan asks for, even if something else was
    measured later.
    """
    everything = _all_rows(store)
    if files is not None:
        everything = everything[everything["file"].isin(list(files))]
    elif not history:
        everything = _newest(everything)
    return everything[COLUMNS].sort_values(["time", "case_id", "metric"], kind="stable").reset_index(drop=True)


def measurements(store: Store, history: bool = False) -> "pd.DataFrame":
    """Return the answers of a store, without floors and learning curves, with `file`, `meter` and `ended` of each row.

    `ended` is the worst status of the row's file, which holds one meter of one case. As in `table`, `history` adds the
    files that a newer one has replaced.
    """
    everything = _all_rows(store)
    kept = everything if history else _newest(everything)
    answers = kept[kept["step"].isna() & (kept["grade"] != "floor").fillna(True)]
    by_file = {file: worst(group) for file, group in answers.groupby("file")["status"]}
    answers = answers.assign(ended=answers["file"].map(by_file).astype("string"))
    return answers.sort_values(["time", "case_id", "meter"], kind="stable").reset_index(drop=True)


def outdated(store: Store) -> dict[str, int]:
    """Return meter -> how many cases it has measured by an older method alone: no table shows them."""
    everything = _all_rows(store)
    newest = everything.groupby("meter")["version"].transform("max")
    newest_of_case = everything.groupby(["meter", "case_id"])["version"].transform("max")
    counts = everything[newest_of_case < newest].groupby("meter")["case_id"].nunique()
    return {str(meter): int(count) for meter, count in counts.items()}


def _all_rows(store: Store) -> "pd.DataFrame":
    """Return the rows of every file, with the columns of the cache; of unchanged files they come from the cache.

    They are marked by the controls of their bundles.
    """
    import pandas as pd

    store.finish_merges()
    cached = _read_cache(store.folder)
    paths = {}
    for path in sorted((store.folder / "cases").glob("??/*.json")):
        if path == store.path(path.stem):
            paths[path.stem] = path
        elif path.is_file():  # it claims what another file holds, or may hold
            store.set_aside(path)
    stamps = {file: path.stat().st_mtime_ns for file, path in paths.items() if path.is_file()}
    unchanged = [stamps.get(f) == s for f, s in zip(cached["file"], cached["stamp"], strict=True)]
    fresh = cached.loc[unchanged] if unchanged else cached  # an empty list would select no column
    new_rows = []
    for file in sorted(set(stamps) - set(fresh["file"])):
        entry = store.load(paths[file])
        if entry is not None:
            try:
                medians = {name: json.dumps(_medians(entry, name)) for name in entry.metrics}
                of_file = _cache_columns(entry, stamps[file])
                new_rows += [{**row, **of_file, "medians": medians.get(row["metric"], "[]")} for row in rows(entry)]
            except (AttributeError, LookupError, TypeError, ValueError):  # a curve of another shape, Infinity in params
                store.set_aside(paths[file])
    everything = _frame_of_sound(new_rows, store, paths)
    if len(fresh):
        everything = pd.concat([fresh, everything], ignore_index=True) if len(everything) else fresh
    if new_rows or len(fresh) != len(cached):
        _write_cache(everything, store.folder)
    # not cached: a later control may exclude a node
    return node_exclusion.mark(everything, controls.load(store.folder))


def _cache_columns(entry: Entry, stamp: int) -> dict[str, Any]:
    """Return what the cache holds of each row of an entry, whose file was last changed at `stamp`."""
    return {
        "file": entry.file,
        "stamp": stamp,
        "meter": entry.meter,
        "hosted": entry.hosted,
        "version": entry.version,
        "asked": entry.asked or entry.time,
        "bundles": " ".join(sorted({str(each.details.get("bundle", "")) for each in entry.processes} - {""})),
    }


def _medians(entry: Entry, metric: str) -> list[float]:
    """Return the median of each process's samples of a metric; none where one process measured it."""
    samples = [process.metrics.get(metric, {}).get("samples") for process in entry.processes]
    return [median(each) for each in samples if each] if len(samples) > 1 else []


def process_medians(store: Store) -> dict[tuple[str, str, str], list[float]]:
    """Return (case id, environment id, metric) -> the median of each of its processes, for what several measured."""
    newest = _newest(_all_rows(store))
    is_answer = newest["step"].isna() & (newest["grade"] != "floor").fillna(True)
    of_values = newest[is_answer & (newest["medians"] != "[]")]
    keys = zip(of_values["case_id"], of_values["environment_id"], of_values["metric"], strict=True)
    return dict(zip(keys, map(json.loads, of_values["medians"]), strict=True))


def environments(store: Store) -> "pd.DataFrame":
    """Return the environments of a store, one a row."""
    import pandas as pd

    facts = []
    # one file of each environment is enough, and the cached rows say which
    for file in _all_rows(store).drop_duplicates("environment_id")["file"]:
        entry = store.read(file)
        if entry is not None:
            facts.append({"environment_id": entry.environment_id, **entry.environment})
    return pd.DataFrame(facts, columns=None if facts else ["environment_id"])


def make_current(store: Store, files: Collection[str]) -> None:
    """Make these files the newest of their cases, by marking when they were asked for.

    After an edit has been undone, what a run asks for was measured before what the edit was measured with.
    """
    everything = _all_rows(store)
    older = set(everything.loc[everything["file"].isin(list(files)), "file"]) - set(_newest(everything)["file"])
    for file in sorted(older):
        entry = store.read(file)
        if entry is not None:
            store.write(replace(entry, asked=now()))


def _newest(everything: "pd.DataFrame") -> "pd.DataFrame":
    """Keep, of each case and meter, the file asked for last; where the host matters, one for each environment."""
    everything = everything[everything["version"] == everything.groupby("meter")["version"].transform("max")]
    host = everything["environment_id"].where(everything["hosted"].astype(bool), "")
    # with the file's own time, for two that were asked for in one second
    asked = everything["asked"] + " " + everything["stamp"].astype("string").str.zfill(20)
    return everything[asked == asked.groupby([everything["case_id"], everything["meter"], host]).transform("max")]


def _frame_of_sound(new_rows: list[dict[str, Any]], store: Store, paths: dict[str, Path]) -> "pd.DataFrame":
    """Make a frame of rows; a file with a value of another type than its column's is damaged, and is set aside."""
    try:
        return _frame(new_rows)
    except _MISFITS:
        sound = []
        for file, group in groupby(new_rows, key=lambda row: row["file"]):
            rows_of_file = list(group)
            try:
                _frame(rows_of_file)
            except _MISFITS:
                store.set_aside(paths[file])
            else:
                sound += rows_of_file
        return _frame(sound)


def _frame(new_rows: Iterable[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(new_rows, columns=list(_CACHE_DTYPES)).astype(_CACHE_DTYPES)


def _read_cache(folder: Path) -> "pd.DataFrame":
    import pandas as pd

    try:
        frame = pd.read_parquet(folder / "rows.parquet")
        return frame.astype(_CACHE_DTYPES) if list(frame.columns) == list(_CACHE_DTYPES) else _frame([])
    except Exception:  # a cache: whatever is wrong with it, the files are read instead
        return _frame([])


def _write_cache(frame: "pd.DataFrame", folder: Path) -> None:
    with suppress(OSError):  # in a results folder that is read only, the next report reads the files again
        write_whole(folder / "rows.parquet", frame.to_parquet())
