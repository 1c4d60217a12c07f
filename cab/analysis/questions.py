"""Groups the rows that answer the same question. Only these are ranked against each other.

A metric is *machine-dependent* where another machine would measure another value. Such rows are kept apart by machine.
The other rows (scores, FLOPs, parameters) stand beside those of every machine.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from cab.plugins.cards import Card
from cab.plugins.registry import cards_of

if TYPE_CHECKING:
    from pandas import DataFrame

# the columns of the rows that make up a question
QUESTION = (
    "task", "level", "pass", "scale", "task_version", "data_source", "protocol", "schema",
    "batch", "heads", "dim", "dtype", "device", "settings", "pattern", "n", "m",
)  # fmt: skip
_DATA_COLUMNS = ("task_version", "data_source", "protocol")  # empty where a case failed before its data were read
# Two environments that agree in these are one machine. Clocks and commits are recorded only, and the allocator is
# fixed by each meter.
MACHINE = ("host", "gpu", "cpu", "threads", "torch", "python", "driver")
# units of machine-dependent metrics; used for meters that are not installed here, and so have no card
MACHINE_DEPENDENT_UNITS = ("seconds", "bytes", "joules", "watts", "tokens", "instructions")
# the columns that boards are made of
COLUMNS = (
    *QUESTION, "mechanism", "params", "backend", "grade", "seed", "case_id", "time", "environment_id", "metric", "unit",
    "higher_is_better", "status", "reason", "value", "ci_low", "ci_high", "processes", "converged", "stop_reason",
)  # fmt: skip
_MACHINE, _TIMED = "_machine", "_timed"  # what rows get here beside their columns
ROWS_AT_ONCE = 200_000  # of more, a task, pattern and length at a time: a row as a dictionary takes 2 KB
NO_REASON = "no reason was kept"  # stands for the empty reason of a row
Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """The newest rows that answer a question on one machine."""

    question: dict[str, Any]  # QUESTION -> value
    machine: str
    rows: list[Row]
    score_machines: int  # how many machines the rows that are not machine-dependent come from


def answers(rows: "DataFrame", environments: "DataFrame | None" = None) -> Iterator[Answers]:
    """Yield the answers to each question on each machine."""
    machines, final = machine_names(environments), final_rows(rows)[list(COLUMNS)]
    if len(final) <= ROWS_AT_ONCE:
        yield from _answers(final, machines)
        return
    for _, part in final.groupby(["task", "pattern", "n"], sort=False, dropna=False):
        yield from _answers(part, machines)


def _answers(rows: "DataFrame", machines: Mapping[str, str]) -> Iterator[Answers]:
    """Yield the answers in a table that holds all rows of each of its cases and questions."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    question_of = itemgetter(*QUESTION)
    for row in _newest(records(rows), machines):
        groups.setdefault(question_of(row), []).append(row)
    _add_failures_without_data(groups)
    for values, group in groups.items():
        timed = [row for row in group if row[_TIMED]]
        score_machines = {row[_MACHINE] for row in group if not row[_TIMED] and row["value"] is not None}
        timing_machines = dict.fromkeys(row[_MACHINE] for row in timed)
        for name in [name for name in timing_machines if name] or [""]:
            # a row that failed before it ran on a machine has an empty one, and stands with every machine
            of_machine = [row for row in group if not row[_TIMED] or row[_MACHINE] in (name, "")]
            only_machine = min(score_machines) if len(score_machines) == 1 else ""
            question = dict(zip(QUESTION, values, strict=True))
            yield Answers(question, name or only_machine, of_machine, len(score_machines))


def _machine_dependent() -> Callable[[Row], bool]:
    """Return whether a row's metric is machine-dependent: as its meter's card says, or else by its unit."""
    cards = [card for card in cards_of("meter").values() if isinstance(card, Card)]
    by_metric = {metric: bool(card.facts["environment"]) for card in cards for metric in card.facts["metrics"]}
    return lambda row: by_metric.get(row["metric"], row["unit"] in MACHINE_DEPENDENT_UNITS)


def _add_failures_without_data(groups: dict[tuple[Any, ...], list[Row]]) -> None:
    """Move rows that failed before their data were read to every group that agrees in all other columns."""
    compared = [i for i, name in enumerate(QUESTION) if name not in _DATA_COLUMNS]
    source = QUESTION.index("data_source")
    for values in [values for values in groups if values[source] in (None, "")]:
        if any(row["value"] is not None for row in groups[values]):
            continue
        fitting = [other for other in groups if other[source] and all(other[i] == values[i] for i in compared)]
        failures = groups.pop(values) if fitting else []
        for other in fitting:
            groups[other] += failures


def machine_names(environments: "DataFrame | None") -> dict[str, str]:
    """Return environment id -> its machine in one line. Environments of one machine share the line."""
    if environments is None or environments.empty:
        return {}
    return {str(each["environment_id"]): describe_machine(each) for each in records(environments)}


def describe_machine(environment: Row) -> str:
    """Describe the machine of an environment in one line."""
    facts = {name: environment[name] for name in MACHINE if environment.get(name) not in (None, "")}
    formats = {"threads": "{} threads", "torch": "torch {}", "python": "Python {}", "driver": "driver {}"}
    words = ", ".join(formats.get(name, "{}").format(value) for name, value in facts.items())
    return words.replace(" 1 threads", " 1 thread") or str(environment.get("environment_id", ""))


def records(table: "DataFrame") -> list[Row]:
    """Return a table as dictionaries, with None for what is missing."""
    plain = table.astype(object).where(table.notna(), None)
    names = [str(name) for name in plain]
    columns = (plain.iloc[:, i].tolist() for i in range(len(names)))  # quicker than `itertuples`
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def final_rows(rows: "DataFrame") -> "DataFrame":
    """Return the rows that are final values, and no points of a learning curve."""
    return rows[rows["step"].isna()]


def _newest(rows: list[Row], machines: Mapping[str, str]) -> list[Row]:
    """Return the newest row of each case, metric and machine, with its _MACHINE, and _TIMED: whether that matters.

    A row of a case that failed before its data were read has no data source, and older files lack the other data
    columns: they are taken from another row of the case. Where there is none they are None.
    """
    depends_on_machine = _machine_dependent()
    by_time = sorted(rows, key=lambda row: str(row["time"] or ""))
    of_case = {
        (row["case_id"], name): row[name] for row in by_time for name in _DATA_COLUMNS if row[name] not in (None, "")
    }
    # a floor's rows stand in every case of its task, under the floor's name in the column mechanism
    identity_of = itemgetter("case_id", "mechanism", "metric", "schema", *_DATA_COLUMNS)
    newest: dict[tuple[Any, ...], Row] = {}
    for row in by_time:
        for name in _DATA_COLUMNS:
            if row[name] is None or (name == "data_source" and row[name] == ""):
                row[name] = of_case.get((row["case_id"], name))
            elif row[name] == "":  # known, and nothing: the task is as published
                row[name] = None
        environment_id = row["environment_id"] or ""
        row[_MACHINE] = machine = machines.get(environment_id, environment_id)
        row[_TIMED] = timed = depends_on_machine(row)
        newest[identity_of(row), machine if timed else ""] = row
    return list(newest.values())
