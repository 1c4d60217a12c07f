"""A run: plan, measure what is missing, and say how it ended. `cab run` and `cab.run` share this."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cab.contracts.case import STATUSES, worst
from cab.contracts.values import check_choice
from cab.planning.measurement import Measurement
from cab.planning.plan import Plan, plan
from cab.runner.bundles import Bundle, cut
from cab.runner.cluster import by_kind, pending, unknown_laws
from cab.runner.cost_estimates import Estimate, estimate
from cab.runner.engines import ENGINES
from cab.runner.entries import is_finished
from cab.runner.listener import Listener
from cab.runner.slurm import Slurm
from cab.runner.supervisor import Options, counts
from cab.store.store import Store
from cab.store.table import make_current, table

if TYPE_CHECKING:
    import pandas as pd

FAILURES = {"wrong", "error", "timeout", "oom"}


@dataclass(frozen=True)
class Run:
    """What a run asked for, and the store that now holds it."""

    plan: Plan
    store: Store

    def statuses(self) -> dict[str, str]:
        """Return case id -> the worst status of its metrics."""
        by_case: dict[str, set[str]] = {}
        for measurement in self.plan.measurements:
            entry = self.store.read(measurement.file)
            by_case.setdefault(measurement.case.id, set()).update(entry.statuses if entry else {"error"})
        return {case_id: worst(statuses) for case_id, statuses in by_case.items()}

    @property
    def exit_code(self) -> int:
        """0: all ok, unsupported or skipped; 1: some wrong, error, timeout or oom."""
        return int(bool(FAILURES & set(self.statuses().values())))

    def rows(self) -> "pd.DataFrame":
        """Return the tidy rows of what was asked for."""
        return table(self.store, files=_files(self.plan))


def execute(
    overrides: Sequence[str],
    listener: Listener,
    results: Path = Path("results"),
    data: Path = Path("data"),
    force: bool = False,
    retry: Iterable[str] = (),
) -> Run:
    """Run what the store does not hold; with `force` everything, with `retry` what ended with one of these statuses.

    `UsageError` is raised before anything is measured; afterwards every case is a row.
    """
    planned = plan(overrides, data)
    statuses = frozenset(retry)
    for status in statuses:
        check_choice("status in --retry", status, STATUSES)
    store = Store(results).open_for_writing()
    options = Options(data=data.absolute(), force=force, retry=statuses, workers=planned.workers)
    planned.measurements = list(ENGINES[planned.engine](planned, store, options, listener))
    for path in store.damaged:
        listener.note(f"a damaged results file was set aside: {path}")
    make_current(store, _files(planned))
    return Run(planned, store)


@dataclass(frozen=True)
class Preview:
    """What a run would do."""

    plan: Plan
    done: int  # measurements that the store holds already
    refused: int  # measurements that are `unsupported`
    estimates: list[Estimate] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)  # of engine=slurm: what sbatch would get


def preview(
    overrides: Sequence[str], results: Path = Path("results"), data: Path = Path("data"), estimates: bool = False
) -> Preview:
    """Plan without running; reads the store if there is one, and writes nothing.

    With `estimates` a child counts what the cases would take.
    """
    planned = plan(overrides, data)
    store, measurements = Store(results), planned.measurements
    refused = sum(each.refusal is not None for each in measurements)
    options = Options(data.absolute(), workers=planned.workers)
    if planned.engine == "local":
        entries = [(each, store.read(each.file)) for each in measurements if results.is_dir()]
        done = sum(counts(entry, each, options) and is_finished(entry, each) for each, entry in entries)
        scripts = []
    else:
        left = pending(store, measurements, options)
        done = len(measurements) - len(left)
        scripts = _scripts(left, planned, store, options) if planned.engine == "slurm" else []
    return Preview(planned, done, refused, estimate(planned, store, options) if estimates else [], scripts)


def _scripts(left: Sequence[Measurement], planned: Plan, store: Store, options: Options) -> list[str]:
    """Return the scripts that `sbatch` would get for what is left to measure, and before it for unknown laws."""
    results = store.folder.absolute()
    laws, pieces = unknown_laws(left), cut(left, planned.cluster.bundle_minutes)
    bundles = [
        Bundle(number, "RUN", piece, str(results), os.getcwd(), options, laws_only=number <= len(laws))
        for number, piece in enumerate([*laws, *pieces], 1)
    ]
    slurm = Slurm(planned.cluster.slurm)
    kinds = [*by_kind(bundles[: len(laws)]), *by_kind(bundles[len(laws) :])]
    return [slurm.script(results / "clusters" / "RUN", of_kind) for of_kind in kinds]


def _files(planned: Plan) -> set[str]:
    return {measurement.file for measurement in planned.measurements}
