"""What is known of a history besides its points: changes, their acknowledgements, and the facts of environments.

Changes are computed when points are recorded. They stand in one file an environment, `changes/ID.json`, so that two
machines never write the same file. An acknowledgement is a file of its own in `accepted/`, the facts of an environment
are `environments/ID.json`.
"""

import json
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from cab.errors import UsageError, unknown
from cab.paths import write_whole
from cab.tracking.changes import changes_of
from cab.tracking.history import Series, read_series

COUNT_UNIT = "count"  # of metrics that have no noise
CLOCK_UNIT = "MHz"  # of a GPU's clock: it explains times, and is no result itself
# absolute seconds that `cab track record` measured drift with the machine: their ratio to a reference kernel is judged
RATIO_METRIC = "latency over reference kernel"
# points by which the place of a noisy change may move as others are recorded: of 160 steps of .05 to .1 that were told
# at the sixth point after them, 158 moved by no more with the next fourteen
NEAR = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """A change of a series, by commits instead of places."""

    case: str
    metric: str
    environment: str
    kind: str  # "step" or "drift"
    before: str  # the last commit with the old level; of a drift, its first commit
    commit: str  # the first commit with the new level; of a drift, its last commit
    share: float
    p: float
    went_away: str = ""  # the commit after which an increase is gone
    accepted: str = ""  # the reason of its acknowledgement
    nearby: tuple[
        str, ...
    ] = ()  # the commit that it is recognised by, and those that this may have been, nearest first

    @property
    def open(self) -> bool:
        """Whether it is an increase that neither went away nor was accepted."""
        return self.share > 0 and not self.went_away and not self.accepted

    @property
    def recognised_by(self) -> str:
        """Return the commit by which it is known again: the end of a drift moves with every point that is recorded."""
        return self.before if self.kind == "drift" else self.commit

    @property
    def described(self) -> str:
        """Say in words what it is and what became of it."""
        what = f"{self.share:+.1%} at {self.commit[:12]}"
        if self.kind == "drift":
            what = f"drift of {self.share:+.1%} from {self.before[:12]} to {self.commit[:12]}"
        if self.accepted:
            return f"{what}, accepted: {self.accepted}"
        return f"{what}, went away at {self.went_away[:12]}" if self.went_away else what


def refresh(
    folder: Path,
    environments: Collection[str],
    series: Sequence[Series] | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Compute the changes of these environments' series again, and keep them."""
    every = read_series(folder) if series is None else series
    for environment in environments:
        of_environment = [each for each in every if each.environment == environment]
        judged_by_ratio = {each.case for each in of_environment if each.metric == RATIO_METRIC}
        found: list[dict[str, Any]] = []
        for each in of_environment:
            if each.unit == CLOCK_UNIT or (each.metric == "latency" and each.case in judged_by_ratio):
                continue
            progress(f"changes of {each.case}, {each.metric}")
            found += [asdict(finding) for finding in findings_of(each)]
        _write(folder / "changes" / f"{environment}.json", found)


def findings_of(series: Series) -> list[Finding]:
    """Return the changes of a series; times that are not positive are left out of it."""
    exact = series.unit == COUNT_UNIT
    kept = [i for i, value in enumerate(series.values) if isfinite(value) and (exact or value > 0)]
    commits = [series.commits[i] for i in kept]
    found = []
    for change in changes_of([series.values[i] for i in kept], exact):
        drift = change.kind == "drift"
        before = commits[change.start if drift else change.start - 1]
        went_away = commits[change.recovered] if change.recovered is not None else ""
        reach = 0 if exact else NEAR
        around = range(max(0, change.start - reach), min(len(commits), change.start + reach + 1))
        nearby = tuple(commits[i] for i in sorted(around, key=lambda i: abs(i - change.start)))
        found.append(
            Finding(
                *series.key,
                change.kind,
                before,
                commits[change.end],
                change.share,
                change.p,
                went_away,
                nearby=nearby,
            )
        )
    return found


def findings(folder: Path) -> list[Finding]:
    """Return all changes that are known, each with the reason for which it was accepted.

    An acknowledgement is of a change of the same case, metric and kind, in the same direction: on each machine of the
    one that is nearest to its commit.
    """
    known: list[Finding] = []
    for path in sorted((folder / "changes").glob("*.json")):
        known += _read(path, _as_findings, "a list of changes", "record or import again")
    for each in _acknowledgements(folder):
        nearest: dict[tuple[str, ...], tuple[int, int]] = {}  # by series and kind: how near, and which
        for number, finding in enumerate(known):
            # acknowledgements of before name a case and a commit alone
            if all(each.get(name, value) == value for name, value in _about(finding).items()):
                places = finding.nearby or (finding.recognised_by,)
                if each["commit"] in places:
                    key = (finding.case, finding.metric, finding.environment, finding.kind)
                    candidate = (places.index(each["commit"]), number)
                    nearest[key] = min(candidate, nearest.get(key, candidate))
        for _, number in nearest.values():
            known[number] = replace(known[number], accepted=each["reason"])
    return known


def _as_findings(data: Any) -> list[Finding]:
    found = [Finding(**{**item, "nearby": tuple(item.get("nearby", ()))}) for item in _of(list, data)]
    accepted: dict[Any, Any] = {float: (int, float), str: str}
    for each in found:
        for field in fields(Finding):
            _of(accepted.get(field.type, tuple), getattr(each, field.name))
    return found


def _about(finding: Finding) -> dict[str, str | bool]:
    """Return what a change and its acknowledgement have in common, besides the place."""
    return {"case": finding.case, "metric": finding.metric, "kind": finding.kind, "increase": finding.share > 0}


def accept(folder: Path, commit: str, reason: str, case: str = "") -> list[Finding]:
    """Acknowledge the changes at a commit, of all cases or of those whose name holds `case`; return them.

    `UsageError` where there is no reason, or no such change.
    """
    if not reason.strip():
        raise UsageError("an acknowledgement needs a reason: say why this change is right")
    known = findings(folder)
    chosen = [each for each in known if commit and each.commit.startswith(commit) and case in each.case]
    if not chosen:
        raise unknown("commit with a change", commit, {each.commit for each in known if case in each.case})
    if len({each.commit for each in chosen}) > 1:
        raise UsageError(f"several commits with changes start with {commit}: give more of its name")
    accepted = [
        {**_about(each), "commit": each.recognised_by, "reason": reason.strip(), "time": time.time()} for each in chosen
    ]
    _write(folder / "accepted" / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.json", accepted)
    return [replace(each, accepted=reason.strip()) for each in chosen]


def keep_environment(folder: Path, environment: str, facts: dict[str, Any]) -> None:
    """Keep the facts of an environment, once."""
    path = folder / "environments" / f"{environment}.json"
    if not path.is_file():
        _write(path, facts)


def environments(folder: Path) -> dict[str, dict[str, Any]]:
    """Return environment id -> facts, of those whose facts are known."""
    paths = sorted((folder / "environments").glob("*.json"))
    return {path.stem: _read(path, _as_facts, "the facts of an environment", "record again") for path in paths}


def _as_facts(data: Any) -> dict[str, Any]:
    facts: dict[str, Any] = _of(dict, data)
    return facts


def _acknowledgements(folder: Path) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = []
    for path in sorted((folder / "accepted").glob("*.json")):
        every += _read(path, _as_acknowledgements, "a list of acknowledgements", "accept these changes again")
    return every


def _as_acknowledgements(data: Any) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = _of(list, data)
    for each in every:
        for name in ("commit", "reason"):
            _of(str, _of(dict, each)[name])
    return every


def _of(accepted: Any, value: Any) -> Any:
    """Return a value; `TypeError` where it is of another type."""
    if not isinstance(value, accepted):
        raise TypeError(f"{str(value)[:40]!r} stands where something else belongs")
    return value


def _read(path: Path, parse: Callable[[Any], T], what: str, again: str) -> T:
    """Return what `parse` makes of a file's JSON; `UsageError` where it has another form."""
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as {what} ({error}); delete it, and {again}") from None


def _write(path: Path, data: Any) -> None:
    try:
        write_whole(path, json.dumps(data, indent=1))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; what was there is as it was") from None
