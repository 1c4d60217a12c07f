"""`cab results diff`: two stores beside each other."""

import json
from collections import Counter
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cab.errors import UsageError
from cab.planning.variation import labels
from cab.report import Difference, Pair, difference, display_unit, filters_of, format_number, selected, short_ids
from cab.store import bundle
from cab.store.store import Store
from cab.terminal.printing import counted
from cab.terminal.results_list import case_of_row, print_columns

if TYPE_CHECKING:
    import pandas as pd

_MOST = 40  # lines unless everything is asked for
ABOUT = "A / B of values that were not measured side by side; the interval adds both half-widths as squares"


def print_difference(first: Path, second: Path, words: Sequence[str], full: bool, as_json: bool, out: Console) -> None:
    """Print the ratios of two stores or bundles, the largest differences first; equal values are counted alone.

    `UsageError` where a folder holds no results, or where neither has what the filters ask for.
    """
    import pandas as pd

    filters = filters_of(words)
    tables = [bundle.merge([Store(folder)]) for folder in (first, second)]
    rows_a, rows_b = _narrowed([rows for rows, _ in tables], filters)
    environments = pd.concat([each for _, each in tables if len(each)] or [tables[0][1]], ignore_index=True)
    found = difference(rows_a, rows_b, environments.drop_duplicates("environment_id"))
    if as_json:
        print(json.dumps(_as_json(found), indent=1))
        return
    _print(found, str(first), str(second), full, out)


def _narrowed(tables: "list[pd.DataFrame]", filters: dict[str, list[str]]) -> "list[pd.DataFrame]":
    """Return what of two tables passes the filters; nothing of one where only the other has what they ask for."""
    narrowed, errors = [], []
    for rows in tables:
        try:
            narrowed.append(selected(rows, filters))
        except UsageError as error:
            errors.append(error)
            narrowed.append(rows.iloc[:0])
    if len(errors) == len(tables):
        raise errors[0]
    return narrowed


def _print(found: Difference, first: str, second: str, full: bool, out: Console) -> None:
    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    told = [pair for pair in found.pairs if pair.verdict not in ("equal", "both ok")]
    told.sort(key=_size, reverse=True)
    shown = told if full else told[:_MOST]
    every = [pair.first for pair in found.pairs] + found.only_first + found.only_second
    cases = {row["case_id"]: case_of_row(row) for row in every}
    titles = labels(list(cases.values())) if cases else {}
    ids = short_ids(cases)
    if shown:
        rows: list[Sequence[str]] = [("case", "", "metric", "A", "B", "A / B", "95 % interval", "")]
        rows += [(ids[pair.first["case_id"]], titles[pair.first["case_id"]], *_cells(pair)) for pair in shown]
        print_columns(rows, out)
    if len(shown) < len(told):
        say(f"... and {len(told) - len(shown)} more: --full")
    for name, only in ((f"A, {first}", found.only_first), (f"B, {second}", found.only_second)):
        if only:
            say(f"only in {name}: {counted(len(only), 'case')}")
            listed = only if full else only[:_MOST]
            say("\n".join(f"  {ids[row['case_id']]}  {titles[row['case_id']]}  {row['status']}" for row in listed))
            if len(listed) < len(only):
                say(f"  ... and {len(only) - len(listed)} more: --full")
    counts = Counter(pair.verdict for pair in found.pairs)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    both = counted(len({pair.first["case_id"] for pair in found.pairs}), "case")
    metrics = counted(len(found.pairs), "metric")
    say(f"A: {first}, B: {second}. {both} in both, {metrics}: {summary or 'none'}. {ABOUT}")
    for machines in dict.fromkeys(pair.machines for pair in found.pairs if pair.machines and pair.first["value"]):
        say(f"different machines: A {machines[0]}; B {machines[1]}")


def _size(pair: Pair) -> tuple[bool, float]:
    """Sort by what is told apart, then by how far the ratio is from 1; what one alone could measure comes first."""
    if pair.ratio is None:
        return pair.verdict != "not told apart" and " against " in pair.verdict, float("inf")
    return pair.verdict in ("less", "more"), abs(log(pair.ratio))


def _cells(pair: Pair) -> tuple[str, ...]:
    unit = display_unit(pair.first["unit"] or "", [pair.first["value"], pair.second["value"]])
    values = [row["status"] if row["value"] is None else unit.text(row["value"]) for row in (pair.first, pair.second)]
    interval = ""
    if pair.low is not None and pair.high is not None:
        interval = f"[{format_number(pair.low)}, {format_number(pair.high)}]"
    metric = f"{pair.first['metric']} ({unit.name})" if unit.name else pair.first["metric"]
    return metric, *values, "" if pair.ratio is None else format_number(pair.ratio), interval, pair.verdict


def _as_json(found: Difference) -> dict[str, Any]:
    pairs = [
        {
            "case": pair.first["case_id"],
            "metric": pair.first["metric"],
            "unit": pair.first["unit"],
            **{side: _value(row) for side, row in (("a", pair.first), ("b", pair.second))},
            "ratio": pair.ratio,
            "ratio_low": pair.low,
            "ratio_high": pair.high,
            "verdict": pair.verdict,
            "machines": pair.machines,
        }
        for pair in found.pairs
    ]
    only = {"only_a": found.only_first, "only_b": found.only_second}
    return {"metrics": pairs, **{side: [row["case_id"] for row in rows] for side, rows in only.items()}}


def _value(row: dict[str, Any]) -> dict[str, Any]:
    names = {"status": "status", "value": "value", "low": "ci_low", "high": "ci_high", "time": "time"}
    return {name: row[column] for name, column in names.items()}
