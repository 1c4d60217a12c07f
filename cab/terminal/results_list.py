"""`cab results list`: the cases of a store, one a line."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cab.contracts.case import STATUSES, Case, worst
from cab.contracts.pattern import Pattern
from cab.contracts.values import check_choice
from cab.errors import UsageError, unknown
from cab.planning.variation import flat, varying
from cab.report import FILTERS, filters_of, selected, short_ids
from cab.store import bundle
from cab.store.finding import case_of
from cab.store.store import Store
from cab.store.table import CASE_COLUMNS, measurements, outdated
from cab.terminal.printing import counted, print_damaged

if TYPE_CHECKING:
    import pandas as pd

_OWN_FILTERS = ("status", "meter")  # beside those of `cab report`
_FIRST = ("task", "mechanism", "pattern", "n", "m")  # columns, where they vary; task, mechanism, pattern and n always


def opened(folder: Path) -> Store:
    """Return the store in a folder; `UsageError` where there is none."""
    if (folder / "cases").is_dir():
        return Store(folder)
    if (folder / bundle.ROWS).is_file():
        raise UsageError(f"{folder} is a bundle, which holds no files of cases; cab report {folder} shows it")
    raise UsageError(f"there are no results in {folder.absolute()}; make some with `cab run`, or give --results DIR")


def chosen(store: Store, words: Sequence[str], history: bool) -> "pd.DataFrame":
    """Return the measurements of a store that KEY=VALUE and case ids select, a row for each metric.

    The columns are those of `cab.store.table.measurements`. `UsageError` for a filter that nothing passes.
    """
    filters = filters_of([word for word in words if "=" in word])
    ids = [case_of(store, word) for word in words if "=" not in word]
    for key in filters:
        if key not in (*FILTERS, *_OWN_FILTERS):
            raise unknown("filter", key, (*FILTERS, *_OWN_FILTERS))
    rows = measurements(store, history)
    if ids:
        rows = rows[rows["case_id"].isin(ids)]
    for status in filters.get("status", ()):
        check_choice("status", status, STATUSES)
    for key, column in (("status", "ended"), ("meter", "meter")):
        if values := filters.pop(key, []):
            present = sorted(rows[column].unique())
            rows = rows[rows[column].isin(values)]
            if rows.empty:
                raise UsageError(f"no result has {key}={','.join(values)}; the results have {', '.join(present)}")
    return selected(rows, filters)


def case_of_row(row: dict[Any, Any]) -> Case:
    """Return the case that a row is of."""
    settings = json.loads(row["settings"])
    question = {name: row[name] for name in CASE_COLUMNS}
    return Case.of(
        {**question, "params": json.loads(row["params"]), "task_params": settings.pop("task", {}), "settings": settings}
    )


def order(case: Case) -> tuple[Any, ...]:
    """Sort cases by what one looks for first."""
    patterns = list(Pattern.__members__)
    return (case.task, case.mechanism, str(case.params), patterns.index(case.pattern), case.n, case.m, case.seed)


def cases_of(rows: "pd.DataFrame") -> list[tuple[Case, dict[str, Any]]]:
    """Return each case of some measurements with its id, status, meters, time and files."""
    listed = []
    for case_id, group in rows.groupby("case_id"):
        facts = {
            "case": str(case_id),
            "status": worst(group["ended"]),
            "meters": sorted(group["meter"].unique()),
            "time": str(group["time"].max()),
            "files": sorted(group["file"].unique()),
        }
        listed.append((case_of_row(group.iloc[0].to_dict()), facts))
    return sorted(listed, key=lambda each: order(each[0]))


def print_cases(words: Sequence[str], folder: Path, history: bool, as_json: bool, out: Console) -> None:
    """Print the cases that `chosen` selects, as a table or as JSON."""
    store = opened(folder)
    listed = cases_of(chosen(store, words, history))
    if as_json:
        entries = [{**facts, "question": case.question()} for case, facts in listed]
        print(json.dumps(entries, indent=1))
    else:
        print_table(listed, out)
        files = {file for _, facts in listed for file in facts["files"]}
        out.print(totals(len(listed), len(files), store), markup=False, highlight=False)
        for meter, count in outdated(store).items() if not history else ():
            out.print(
                f"not listed: {meter} of {counted(count, 'case')}, by an older method; --history", highlight=False
            )
        if bundles := bundle.imported(store):
            names = ", ".join(map(str, bundles))
            out.print(f"and {counted(len(bundles), 'imported bundle')}: {names}", markup=False, highlight=False)
    print_damaged([store])


def totals(cases: int, files: int, store: Store) -> str:
    """Say how many cases and files of a store were meant."""
    return f"{counted(cases, 'case')}, {counted(files, 'file')} in {store.folder / 'cases'}"


def print_table(listed: Sequence[tuple[Case, dict[str, Any]]], out: Console) -> None:
    """Print cases with their ids and what tells them apart."""
    if not listed:
        return
    cases = [case for case, _ in listed]
    tasks = {case.task: [each for each in cases if each.task == case.task] for case in cases}
    differing = [name for group in tasks.values() for name in varying(group)]  # sizes and recipes are each task's own
    crossed = any(case.m != case.n for case in cases)
    columns = [name for name in _FIRST if name != "m" or crossed]
    columns += [name for name in dict.fromkeys(differing) if name not in (*columns, "m")]
    ids = short_ids(facts["case"] for _, facts in listed)
    rows: list[Sequence[str]] = [("case", *columns, "status", "measured", "meters")]
    for case, facts in listed:
        values = flat(case)
        when = facts["time"].replace("T", " ").removesuffix("Z")[:16]
        cells = (values.get(name, "") for name in columns)
        rows.append((ids[facts["case"]], *cells, facts["status"], when, " ".join(facts["meters"])))
    print_columns(rows, out)


def print_columns(rows: Iterable[Sequence[str]], out: Console) -> None:
    """Print plain columns below each other: laying out a rich table of a thousand lines takes seconds."""
    every = list(rows)
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in every]
    out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
