"""Carry out a bisection: every step is a comparison of one case with the good end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from cab.contracts.case import digest
from cab.errors import UsageError
from cab.tracking.bisect import Culprits, NotReproduced, bisect, step_verdict
from cab.tracking.cases import tracked_cases
from cab.tracking.compare import CountChange, Measure, Settings, compare, counted
from cab.tracking.rendering import count_change
from cab.tracking.sides import NoData, commits_between, repository_of, side_of, subject_of
from cab.tracking.signed_rank import effect
from cab.tracking.verdicts import Minimum

if TYPE_CHECKING:
    from rich.console import Console


def search_and_print(
    ends: tuple[str, str],
    overrides: Sequence[str],
    minimum: Minimum,
    same_environment: bool,
    results: Path,
    out: "Console",
    progress: Callable[[str], None],
    measure: Measure | None = None,
    by_time: bool = False,
    keep: bool = False,
) -> Culprits:
    """Bisect one case between two revisions of the checkout that the working folder is in, and print what is found.

    Where counts tell the ends apart, the one that grew most decides every step, unless `by_time` says otherwise. What a
    killed search has measured is not measured again. A finished one is, unless `keep` keeps its pairs.
    """
    from rich.markup import escape

    cases = tracked_cases(overrides)
    if len(cases) != 1:
        raise UsageError(f"these overrides give {len(cases)} cases; a bisection is of one")
    (case,) = cases
    repository = repository_of(Path.cwd())
    good, parents = commits_between(repository, *ends)
    commits = list(parents)
    bad = commits[-1] if commits else good
    state = results / "track" / "bisect" / digest([good, bad, case.id], 16)
    base = side_of(good, repository, same_environment)

    def finish() -> None:
        if not keep:  # who asks again after an answer asks for a second measurement
            rmtree(state, ignore_errors=True)

    def judge(commit: str, attempt: int) -> str:
        folder = state / str(attempt)  # a repeated step measures afresh
        try:
            head = side_of(commit, repository, same_environment)
            counts = counted(base, head, case, folder, progress, measure)
        except NoData as error:
            progress(f"{commit[:12]} {subject_of(repository, commit)}: skipped: {error}")
            return "no data"
        if deciding is not None:
            said = _by_count(counts.get(deciding.name), deciding)
        else:
            done = compare(base, head, cases, Settings(minimum, settle=True, controls=1), folder, progress, measure)
            verdict = done.verdicts[case.name]
            if done.flagged:
                said = "unproven"
            elif verdict.effect is None:
                said = "no data"
            else:
                # a repeated step adds its pairs to the earlier ones
                pairs = pooled.setdefault(commit, [])
                pairs += done.log_ratios[case.name]
                if commit == bad:
                    said = verdict.verdict
                    bad_change.append(effect(pairs).estimate)  # of all its tries: that of the one that counts is larger
                else:
                    said = step_verdict(pairs, bad_change[-1])
        progress(f"{commit[:12]} {subject_of(repository, commit)}: {said}")
        return said

    deciding: CountChange | None = None
    bad_change: list[float] = []
    pooled: dict[str, list[float]] = {}  # commit -> log ratios against the good end
    if commits and not by_time:
        # where counts tell the ends apart, one pair decides a step, and no clock is needed
        try:
            bad_side = side_of(bad, repository, same_environment)
            at_ends = counted(base, bad_side, case, state / "0", progress, measure).values()
        except NoData as error:
            raise UsageError(f"the ends cannot be compared: {error}") from None
        deciding = max((each for each in at_ends if each.regressed), key=lambda each: each.share, default=None)
        if deciding is not None:
            out.print(escape(f"decided by a count: {count_change(case.name, deciding)}"), highlight=False)
    try:
        found = bisect(good, parents, judge)
    except NotReproduced:
        finish()
        raise
    for commit in found.skipped:
        out.print(escape(f"skipped, because it could not be measured: {commit[:12]}"), highlight=False)
    for commit in found.unclear:
        out.print(escape(f"unclear after several tries: {commit[:12]}"), highlight=False)
    out.print("the commit that made it slower:" if len(found.commits) == 1 else "one of these made it slower:")
    for commit in found.commits:
        out.print(escape(f"{commit} {subject_of(repository, commit)}"), highlight=False)
    finish()
    return found


def _by_count(step: CountChange | None, bad: CountChange) -> str:
    """Say whether a commit has more than half of what the bad end has added to a count of the good end."""
    if step is None:
        return "no data"
    return "slower" if step.head - step.base > (bad.head - bad.base) / 2 else "same"
