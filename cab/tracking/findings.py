"""What is known of a history besides its points: changes, their acknowledgements, and the facts of environments.

Changes are computed when points are recorded. They stand in one file an environment, `changes/ID.json`, so that two
machines never write the same file. An acknowledgement is a file of its own in `accepted/`, the facts of an environment
are `environments/ID.json`.
"""

import json
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any

from cab.errors import UsageError, unknown
from cab.paths import write_whole
from cab.tracking.changes import changes_of
from cab.tracking.history import Series, read_series

COUNT_UNIT = "count"  # of metrics that have no noise
CLOCK_UNIT = "MHz"  # of a GPU's clock: it explains times, and is no result itself
# absolute seconds that `cab track record` measured drift with the machine: their ratio to a reference kernel is judged
RATIO_METRIC = "latency over reference kernel"


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

    @property
    def open(self) -> bool:
        """Whether it is an increase that neither went away nor was accepted."""
        return self.share > 0 and not self.went_away and not self.accepted

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
        found.append(Finding(*series.key, change.kind, before, commits[change.end], change.share, change.p, went_away))
    return found


def findings(folder: Path) -> list[Finding]:
    """Return all changes that are known, each with the reason for which it was accepted."""
    reasons = {(each["case"], each["commit"]): each["reason"] for each in _acknowledgements(folder)}
    return [
        replace(each, accepted=reasons.get((each.case, each.commit), ""))
        for path in sorted((folder / "changes").glob("*.json"))
        for each in (Finding(**item) for item in _read(path))
    ]


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
        {"case": name, "commit": chosen[0].commit, "reason": reason.strip(), "time": time.time()}
        for name in sorted({each.case for each in chosen})
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
    return {path.stem: _read(path) for path in sorted((folder / "environments").glob("*.json"))}


def _acknowledgements(folder: Path) -> list[dict[str, Any]]:
    return [each for path in sorted((folder / "accepted").glob("*.json")) for each in _read(path)]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete it, and record or import again") from None


def _write(path: Path, data: Any) -> None:
    try:
        write_whole(path, json.dumps(data, indent=1))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; what was there is as it was") from None
