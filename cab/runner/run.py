"""A run: plan, measure what is missing, and say how it ended. What `cab run` and `cab.run` share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cab.contracts.case import STATUSES, worst
from cab.errors import unknown
from cab.planning.plan import Plan, plan
from cab.runner.cost_estimates import Estimate, estimate
from cab.runner.engines import engine
from cab.runner.entries import finished
from cab.runner.listener import Listener
from cab.runner.supervisor import Options
from cab.store.store import Store
from cab.store.table import make_current, table

if TYPE_CHECKING:
    import pandas as pd

BAD = {"wrong", "error", "timeout", "oom"}


@dataclass(frozen=True)
class Run:
    """What a run asked for, and the store that now holds it."""

    plan: Plan
    store: Store

    def statuses(self) -> dict[str, str]:
        """Return case id -> the worst status of its metrics."""
        found: dict[str, list[str]] = {}
        for item in self.plan.items:
            entry = self.store.read(item.file)
            names = [m["status"] for m in entry["metrics"].values()] if entry else ["error"]
            found.setdefault(item.case.id, []).extend(names)
        return {case: worst(of_case) for case, of_case in found.items()}

    @property
    def exit_code(self) -> int:
        """0: all ok, unsupported or skipped; 1: some wrong, error, timeout or oom."""
        return int(bool(BAD & set(self.statuses().values())))

    def rows(self) -> "pd.DataFrame":
        """Return the tidy rows of what was asked for."""
        return table(self.store, files={item.file for item in self.plan.items})


def execute(
    overrides: Sequence[str],
    listener: Listener,
    results: Path = Path("results"),
    data: Path = Path("data"),
    force: bool = False,
    retry: Iterable[str] = (),
) -> Run:
    """Run what is missing or stale. `UsageError` before anything is paid; afterwards every case is a row."""
    planned = plan(overrides, data)
    again = frozenset(retry)
    for status in again:
        if status not in STATUSES:
            raise unknown("status in --retry", status, STATUSES)
    store = Store(results).open_for_writing()
    options = Options(data=data.absolute(), force=force, retry=again)
    engine("local")(planned.items, store, options, listener)
    for path in store.damaged:
        listener.note(f"a damaged results file was set aside: {path}")
    make_current(store, {item.file for item in planned.items})
    return Run(planned, store)


@dataclass(frozen=True)
class Preview:
    """What a run would do."""

    plan: Plan
    done: int  # items that the store holds already
    refused: int
    estimates: list[Estimate] = field(default_factory=list)


def preview(
    overrides: Sequence[str], results: Path = Path("results"), data: Path = Path("data"), estimates: bool = False
) -> Preview:
    """Plan without running; reads the store if there is one, and writes nothing. With `estimates`, of costs too."""
    planned = plan(overrides, data)
    store = Store(results)
    refused = sum(item.refusal is not None for item in planned.items)
    done = sum(finished(store.read(item.file), item) for item in planned.items) if results.is_dir() else 0
    return Preview(planned, done, refused, estimate(planned, store, data.absolute()) if estimates else [])
