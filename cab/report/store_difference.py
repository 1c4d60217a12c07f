"""Two stores case by case: the ratio of each metric with its interval, and the cases that only one of them has."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cab.analysis.comparison import ratio
from cab.analysis.leaderboard import Cell
from cab.analysis.questions import final_rows, machine_names, records

if TYPE_CHECKING:
    from pandas import DataFrame

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One metric of one case in both stores."""

    first: Row
    second: Row
    ratio: float | None  # first / second; None where one has no value, or the ratio has no meaning
    low: float | None  # the ends of its 95 % interval; None where nothing is known of it, or both values are exact
    high: float | None
    verdict: str  # "equal", "not told apart", "less", "more", or two statuses
    machines: tuple[str, str] | None  # where they differ and the metric depends on the machine


@dataclass
class Difference:
    """What `difference` returns."""

    pairs: list[Pair] = field(default_factory=list)
    only_first: list[Row] = field(default_factory=list)  # a row for each case
    only_second: list[Row] = field(default_factory=list)


def difference(first: "DataFrame", second: "DataFrame", environments: "DataFrame") -> Difference:
    """Compare the rows of two stores; `environments` are those of both.

    Of several answers of one store those of an environment that both have are compared, or else the newest.
    """
    machines = machine_names(environments)
    of_first, of_second = _answers(first), _answers(second)
    found = Difference()
    for key, rows in of_first.items():
        if key in of_second:
            found.pairs.append(_pair(*_chosen(rows, of_second[key]), machines))
    cases = [{case_id for case_id, _ in answers} for answers in (of_first, of_second)]
    found.only_first = _one_row_each(of_first, cases[0] - cases[1])
    found.only_second = _one_row_each(of_second, cases[1] - cases[0])
    return found


def _answers(rows: "DataFrame") -> dict[tuple[str, str], list[Row]]:
    """Return case id and metric -> the answers, oldest first; floors and learning curves are left out."""
    final = final_rows(rows)
    answers: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(records(final[(final["grade"] != "floor").fillna(True)]), key=lambda row: str(row["time"])):
        answers.setdefault((row["case_id"], row["metric"]), []).append(row)
    return answers


def _one_row_each(answers: dict[tuple[str, str], list[Row]], cases: set[str]) -> list[Row]:
    return list({case_id: rows[-1] for (case_id, _), rows in answers.items() if case_id in cases}.values())


def _chosen(first: list[Row], second: list[Row]) -> tuple[Row, Row]:
    by_environment = {row["environment_id"]: row for row in second}
    shared = [row for row in first if row["environment_id"] in by_environment]
    return (shared[-1], by_environment[shared[-1]["environment_id"]]) if shared else (first[-1], second[-1])


def _pair(first: Row, second: Row, machines: dict[str, str]) -> Pair:
    ids = [str(row["environment_id"]) for row in (first, second)]
    names = machines.get(ids[0], ids[0]), machines.get(ids[1], ids[1])
    differ = names if names[0] != names[1] else None
    if first["value"] is None or second["value"] is None:
        statuses = [row["status"] for row in (first, second)]
        verdict = f"both {statuses[0]}" if statuses[0] == statuses[1] else " against ".join(statuses)
        return Pair(first, second, None, None, None, verdict, differ)
    cells = _cell(first), _cell(second)
    value, low, high = ratio(*cells) or (None, None, None)
    if first["value"] == second["value"]:
        verdict = "equal"
    elif cells[0].overlaps(cells[1]) if low is None or high is None else low <= 1 <= high:
        verdict = "not told apart"
    else:
        verdict = "less" if first["value"] < second["value"] else "more"
    exact = all(cell.low is None and not cell.interval_unknown for cell in cells)
    return Pair(first, second, value, None if exact else low, None if exact else high, verdict, differ)


def _cell(row: Row) -> Cell:
    """Return a row as a cell; a measured time in which no process gave an interval is told apart from nothing."""
    unknown = row["converged"] is False and row["ci_low"] is None
    return Cell("ok", row["value"], row["ci_low"], row["ci_high"], interval_unknown=unknown)
