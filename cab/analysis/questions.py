"""Which rows answer the same question: only these are ever ranked against each other.

What another machine would measure differently is kept apart by machine. Scores, FLOPs and parameters do not depend on
it, and stand beside each machine's times.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from cab.analysis.units import OF_THE_HOST
from cab.plugins.cards import Card
from cab.plugins.registry import cards_of

if TYPE_CHECKING:
    from pandas import DataFrame

QUESTION = (
    *("task", "level", "pass", "scale", "task_version", "data_source", "protocol", "schema"),
    *("batch", "heads", "dim", "dtype", "device", "settings", "pattern", "n", "m"),
)
# what makes two environments one machine; clocks and commits are recorded only, and a meter fixes its allocator
MACHINE = ("host", "gpu", "cpu", "threads", "torch", "python", "driver")
_OF_THE_DATA = ("task_version", "data_source", "protocol")
Row = dict[str, Any]


def questions(
    rows: "DataFrame", environments: "DataFrame | None" = None
) -> Iterator[tuple[dict[str, Any], str, list[Row], int]]:
    """Yield each question with a machine, the newest rows that answer it there, and how many machines gave scores."""
    machines = machine_names(environments)

    def machine(row: Row) -> str:
        identity = str(row["environment_id"] or "")
        return machines.get(identity, identity)

    hosted = _of_the_host()
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in _newest(records(final(rows)), machine, hosted):
        groups.setdefault(tuple(row[name] for name in QUESTION), []).append(row)
    _join_failed(groups)
    for values, group in groups.items():
        elsewhere = {machine(row) for row in group if not hosted(row) and row["value"] is not None}
        measured = [machine(row) for row in group if hosted(row)]
        for here in list(dict.fromkeys(name for name in measured if name)) or [""]:
            # a row that failed before it reached a machine stands with every machine
            answers = [row for row in group if not hosted(row) or machine(row) in (here, "")]
            name = here or (min(elsewhere) if len(elsewhere) == 1 else "")
            yield dict(zip(QUESTION, values, strict=True)), name, answers, len(elsewhere)


def _of_the_host() -> Callable[[Row], bool]:
    """Return whether another machine would measure a row's metric differently: its meter says so, else its unit."""
    cards = (card for card in cards_of("meter").values() if isinstance(card, Card))
    known = {name: bool(card.facts["environment"]) for card in cards for name in card.facts["metrics"]}
    return lambda row: known.get(row["metric"], row["unit"] in OF_THE_HOST)


def _join_failed(groups: dict[tuple[Any, ...], list[Row]]) -> None:
    """Let rows that failed before their data were known stand with every answer to the same question."""
    asked = [place for place, name in enumerate(QUESTION) if name not in _OF_THE_DATA]
    source = QUESTION.index("data_source")
    for values in [values for values in groups if values[source] in (None, "")]:
        if all(row["value"] is None for row in groups[values]):
            alike = [
                other for other in groups if other[source] and all(other[place] == values[place] for place in asked)
            ]
            failed = groups.pop(values) if alike else []
            for other in alike:
                groups[other] += failed


def machine_names(environments: "DataFrame | None") -> dict[str, str]:
    """Return environment_id -> its machine in one line; environments of one machine share it."""
    if environments is None or environments.empty:
        return {}
    return {str(each["environment_id"]): describe(each) for each in records(environments)}


def describe(environment: Row) -> str:
    """Name the machine of an environment in one line."""
    known = {name: environment[name] for name in MACHINE if environment.get(name) not in (None, "")}
    named = {"threads": "{} threads", "torch": "torch {}", "python": "Python {}", "driver": "driver {}"}
    words = ", ".join(named.get(name, "{}").format(value) for name, value in known.items())
    return words.replace(" 1 threads", " 1 thread") or str(environment.get("environment_id", ""))


def records(table: "DataFrame") -> list[Row]:
    """Return a table as dictionaries, with None for what is missing."""
    plain = table.astype(object).where(table.notna(), None)
    names = [str(name) for name in plain]
    return [dict(zip(names, values, strict=True)) for values in plain.itertuples(index=False, name=None)]


def final(rows: "DataFrame") -> "DataFrame":
    """Return the answers, without the learning curves."""
    return rows[rows["step"].isna()]


def _newest(rows: list[Row], machine: Callable[[Row], str], hosted: Callable[[Row], bool]) -> list[Row]:
    """Keep one row for each case, metric and machine; what says nothing of its data takes its sibling's word."""
    in_time = sorted(rows, key=lambda row: str(row["time"] or ""))
    known = {
        (row["case_id"], name): row[name] for row in in_time for name in _OF_THE_DATA if row[name] not in (None, "")
    }
    newest: dict[tuple[Any, ...], Row] = {}
    for row in in_time:
        for name in _OF_THE_DATA:
            if row[name] in (None, ""):
                row[name] = known.get((row["case_id"], name))
        where = machine(row) if hosted(row) else ""
        whose = row["case_id"], row["mechanism"]  # a floor stands under its own name in every case of its task
        newest[*whose, row["metric"], where, row["schema"], *(row[name] for name in _OF_THE_DATA)] = row
    return list(newest.values())
