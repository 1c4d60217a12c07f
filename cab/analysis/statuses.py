"""How the cases of a store ended: counts of each status, and the reasons of what failed."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cab.analysis.questions import NO_REASON, Row, final_rows, records
from cab.contracts.case import STATUSES, worst

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class StatusCount:
    """How often a status occurs."""

    rows: int
    cases: int  # of which it is the worst status


@dataclass(frozen=True)
class Failure:
    """The rows that share a status other than `ok` and its reason."""

    status: str
    reason: str
    rows: int
    mechanisms: list[str]


def status_counts(rows: "DataFrame") -> dict[str, StatusCount]:
    """Return status -> its counts, `ok` first. Floors do not count, because no user asks for them."""
    counted = final_rows(rows[rows["grade"] != "floor"])
    row_counts = {str(status): int(count) for status, count in counted["status"].value_counts().items()}
    statuses_of_case: dict[str, set[str]] = {}
    distinct = counted[["case_id", "status"]].drop_duplicates()
    for case_id, status in zip(distinct["case_id"].tolist(), distinct["status"].tolist(), strict=True):
        statuses_of_case.setdefault(case_id, set()).add(status)
    case_counts = Counter(worst(statuses) for statuses in statuses_of_case.values())
    return {
        status: StatusCount(row_counts[status], case_counts[status])
        for status in reversed(STATUSES)
        if status in row_counts
    }


def failures(rows: "DataFrame") -> list[Failure]:
    """Return the failures, the worst status first, then the most frequent reason."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in records(rows[rows["status"] != "ok"]):
        groups.setdefault((row["status"], row["reason"] or NO_REASON), []).append(row)
    unordered = [
        Failure(status, reason, len(group), sorted({row["mechanism"] for row in group}))
        for (status, reason), group in groups.items()
    ]
    return sorted(unordered, key=lambda failure: (STATUSES.index(failure.status), -failure.rows, failure.reason))
