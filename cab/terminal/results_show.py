"""`cab results show`: all that a store has on one case."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cab.contracts.case import Case, canonical, worst
from cab.errors import UsageError
from cab.planning.variation import flat
from cab.report import command, display_unit
from cab.store.entry import Entry, MetricResult
from cab.store.finding import case_of, files_of
from cab.store.store import Store
from cab.store.table import measurements
from cab.terminal.laws import laws
from cab.terminal.printing import print_pairs
from cab.terminal.results_list import opened, print_columns

_GROUPS = {"mechanism.": "Hyper-parameters", "task.": "Hyper-parameters of the task", "training.": "Training"}


def print_case(text: str, folder: Path, as_json: bool, out: Console) -> None:
    """Print a case, whose id begins with `text`; `UsageError` where there is none or more than one."""
    store = opened(folder)
    case_id = case_of(store, text)
    entries = [entry for file in files_of(store, case_id) if (entry := store.read(file)) is not None]
    if not entries:
        raise UsageError(f"the files of {case_id} are damaged, and were set aside in {store.folder / 'damaged'}")
    shown = set(measurements(store)["file"])  # the others are history
    if as_json:
        print(json.dumps(_as_json(entries, shown, store), indent=1))
    else:
        _print(entries, shown, store, out)


def repeat(case: Case, meters: list[str]) -> str:
    """Return the command that measures a case by these meters."""
    question = {**case.question(), "settings": canonical({"task": case.task_params, **case.settings})}
    words = command(case.mechanism, case.params, case.backend, question, str(case.seed))
    return f"{words} 'meters=[{','.join(meters)}]'"


def _as_json(entries: list[Entry], shown: set[str], store: Store) -> dict[str, Any]:
    case = entries[0].case
    files = []
    for entry in entries:
        content = {name: value for name, value in entry.to_json().items() if name not in ("case", "case_id")}
        files.append({"file": str(store.path(entry.file)), "history": entry.file not in shown, **content})
    return {
        "case": entries[0].case_id,
        "question": case.question(),
        "status": _status(entries, shown),
        "laws": laws(case),
        "command": repeat(case, _meters(entries)),
        "measurements": files,
    }


def _print(entries: list[Entry], shown: set[str], store: Store, out: Console) -> None:
    case = entries[0].case
    values = flat(case)
    out.print(f"[bold]{entries[0].case_id}[/]  ", end="", highlight=False)
    out.print(case.title, markup=False, highlight=False)
    verdict = {"status": _status(entries, shown), "grade": entries[-1].grade or "none", "laws": laws(case)}
    print_pairs(verdict, out)
    plain = {key: value for key, value in values.items() if not key.startswith(tuple(_GROUPS))}
    _section("Asked", plain, out)
    for prefix, title in _GROUPS.items():
        group = {key: value for key, value in values.items() if key.startswith(prefix)}
        if group or prefix == "mechanism.":
            _section(title, group or {"": "none"}, out)
    for entry in sorted(entries, key=lambda entry: (entry.file not in shown, entry.meter, entry.time)):
        _print_measurement(entry, entry.file in shown, store, out)
    for environment_id in dict.fromkeys(entry.environment_id for entry in entries):
        facts = next(entry.environment for entry in entries if entry.environment_id == environment_id)
        _section(f"Environment {environment_id}", {k: v for k, v in facts.items() if v not in (None, "")}, out)
    out.print("\nThe command that repeats it", style="bold")
    out.print(repeat(case, _meters(entries)), markup=False, highlight=False, soft_wrap=True)


def _section(title: str, pairs: dict[str, Any], out: Console) -> None:
    out.print(f"\n{title}", style="bold", markup=False, highlight=False)
    print_pairs(pairs, out)


def _print_measurement(entry: Entry, is_shown: bool, store: Store, out: Console) -> None:
    history = "" if is_shown else ", history: a newer one has replaced it"
    out.print(f"\nMeasured by {entry.meter}{history}", style="bold", markup=False, highlight=False)
    rows: list[Sequence[str]] = [("metric", "value", "95 % interval", "samples", "processes", "status", "")]
    rows += [_metric_row(name, result) for name, result in entry.metrics.items()]
    print_columns(rows, out)
    facts = {
        "when": f"{entry.time}, run {entry.run_id}, commit {entry.commit or 'unknown'}",
        "method": f"version {entry.version} of {entry.meter}",
        "environment": entry.environment_id,
        "file": store.path(entry.file),
    }
    if entry.data_source is not None:
        facts["data"] = f"{entry.data_source}, split {entry.split or 'unknown'}"
        facts["floors"] = "; ".join(f"{name}: {dict(values)}" for name, values in entry.floors.items()) or "none"
        facts["validations"] = f"{len(entry.curve)}, the best at step {entry.best_step}"
    for name, value in facts.items():
        out.print(f"{name}: {value}", markup=False, highlight=False, soft_wrap=True)


def _metric_row(name: str, result: MetricResult) -> tuple[str, ...]:
    if result.status != "ok" or result.value is None:
        reason = (result.reason.strip().splitlines() or [""])[0]
        return name, "", "", "", "", result.status, reason
    unit = display_unit(result.unit, [result.value])
    converged = "did not converge: " if result.converged is False else ""
    return (
        name,
        f"{unit.text(result.value)} {unit.name}".strip(),
        unit.interval(result.ci_low, result.ci_high),
        "" if result.count is None else str(result.count),
        "" if result.processes is None else str(result.processes),
        result.status,
        f"{converged}{result.stop_reason}" if result.stop_reason else "",
    )


def _status(entries: list[Entry], shown: set[str]) -> str:
    """Return the worst status, with its reason, of the measurements that tables show."""
    results = [result for entry in entries if entry.file in shown for result in entry.metrics.values()]
    status = worst(result.status for result in results)
    reason = next((result.reason for result in results if result.status == status and result.reason), "")
    return f"{status}: {reason}" if reason else status


def _meters(entries: list[Entry]) -> list[str]:
    return sorted({entry.meter for entry in entries})
