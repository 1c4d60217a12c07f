"""Carry out a bisection: every step is a comparison of one case with the good end."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cab.errors import UsageError
from cab.tracking.bisect import Culprits, bisect
from cab.tracking.cases import tracked_cases
from cab.tracking.compare import Measure, Settings, compare
from cab.tracking.lockstep import measure_pair
from cab.tracking.sides import NoData, commits_between, repository_of, side_of, subject_of
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
    measure: Measure = measure_pair,
) -> Culprits:
    """Bisect one case between two revisions of the checkout that the working folder is in, and print what is found."""
    from rich.markup import escape

    cases = tracked_cases(overrides)
    if len(cases) != 1:
        raise UsageError(f"these overrides give {len(cases)} cases; a bisection is of one")
    repository = repository_of(Path.cwd())
    good, commits = commits_between(repository, *ends)
    base = side_of(good, repository, same_environment)

    def judge(commit: str, attempt: int) -> str:
        try:
            head = side_of(commit, repository, same_environment)
        except NoData as error:
            progress(f"{commit[:12]}: skipped: {error}")
            return "no data"
        folder = results / "track" / "bisect" / str(attempt)  # a repeated step measures afresh
        done = compare(base, head, cases, Settings(minimum, settle=True, controls=1), folder, progress, measure)
        verdict = next(iter(done.verdicts.values()))
        if done.flagged:
            said = "unproven"
        else:
            said = "slower" if done.regressed_counts else verdict.verdict
        # a commit that is faster than the good end is not slower
        said = "same" if said == "faster" else said
        progress(f"{commit[:12]} {subject_of(repository, commit)}: {said}{verdict.reason and f' ({verdict.reason})'}")
        return said

    found = bisect(good, commits, judge)
    for commit in found.skipped:
        out.print(escape(f"skipped, because it could not be measured: {commit[:12]}"), highlight=False)
    for commit in found.unclear:
        out.print(escape(f"unclear after several tries: {commit[:12]}"), highlight=False)
    out.print("the commit that made it slower:" if len(found.commits) == 1 else "one of these made it slower:")
    for commit in found.commits:
        out.print(escape(f"{commit} {subject_of(repository, commit)}"), highlight=False)
    return found
