"""`cab track bisect`: which commit made a case slower. An end is reproduced before anything is searched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cab.errors import UsageError
from cab.tracking.signed_rank import effect

ATTEMPTS = 5  # at a step whose verdict is neither `slower` nor `same`

# (commit, attempt) -> a verdict of cab.tracking.verdicts of that commit against the good end, or "unproven"
Judge = Callable[[str, int], str]


class NotReproduced(UsageError):
    """The ends of a search do not differ as they should."""


@dataclass(frozen=True)
class Culprits:
    """The commits among which the one is that made the case slower, the oldest first; one where it is found."""

    commits: tuple[str, ...]
    good: str  # the commit that was last found to be as fast as the good end, or that end
    skipped: tuple[str, ...]  # commits that could not be measured
    unclear: tuple[str, ...]  # commits whose verdict stayed unclear


def step_verdict(log_ratios: Sequence[float], bad_change: float) -> str:
    """Say whether a commit is `slower`, as the bad end is, or the `same` as the good end; else `unstable`.

    `log_ratios` are of the commit against the good end, one a process pair; `bad_change` is the bad end's change, as a
    share. Half of it lies between the two: an interval that excludes it decides. To ask of each step what `compare`
    asks, an interval within 3 % or a significant slowdown above it, leaves most steps undecided.
    """
    change, half = effect(log_ratios), bad_change / 2
    if change.low > half:
        return "slower"
    return "same" if change.high < half else "unstable"


def bisect(good: str, parents: Mapping[str, Sequence[str]], judge: Judge) -> Culprits:
    """Search the commits after `good`, the oldest first, each with its parents; the last of them is the bad end.

    What made the case slower is in every slow commit's ancestry, and in that of no fast one: so a slow commit leaves
    itself and its ancestors, and a fast one takes itself and its ancestors away. Commits of branches that were merged
    are in no order, and where one is fast nothing is known of those beside it.

    A step is repeated until its verdict is `slower` or `same`: one wrong step would blame an innocent commit. A commit
    that cannot be measured, or that stays unclear, is passed by, and others are asked instead.

    `NotReproduced` where the bad end is not slower, or where the good end is slower than itself.
    """
    commits = list(parents)
    if not commits:
        raise UsageError(f"there is no commit after {good[:12]}: GOOD must be an ancestor of BAD")
    # the bad end first: what it shows decides what is asked of the others
    for commit, wanted in ((commits[-1], "slower"), (good, "same")):
        said = _settled(commit, judge)
        if said != wanted:
            raise NotReproduced(
                f"{commit[:12]} is {said} against GOOD, and should be {wanted}: the ends do not reproduce, so that a "
                "search would blame an innocent commit"
            )
    lines = _ancestries(parents)
    oldest_slow, newest_fast = commits[-1], good
    suspects = lines[oldest_slow]
    skipped: list[str] = []
    unclear: list[str] = []

    def halves(commit: str) -> int:
        """Return how many suspects go at least, whichever way the commit is."""
        with_it = (suspects & lines[commit]).bit_count()
        return min(with_it, suspects.bit_count() - with_it)

    while candidates := [
        commit
        for place, commit in enumerate(commits)
        if suspects >> place & 1 and commit not in (oldest_slow, *skipped, *unclear)
    ]:
        commit = max(candidates, key=halves)
        said = _settled(commit, judge)
        if said == "slower":
            oldest_slow, suspects = commit, suspects & lines[commit]
        elif said == "same":
            newest_fast, suspects = commit, suspects & ~lines[commit]
        else:
            (skipped if said == "no data" else unclear).append(commit)
    left = tuple(commit for place, commit in enumerate(commits) if suspects >> place & 1)
    return Culprits(left, newest_fast, tuple(skipped), tuple(unclear))


def _ancestries(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return each commit's line: bit i is set where the i-th commit is the commit itself or one of its ancestors."""
    lines: dict[str, int] = {}
    for place, (commit, of_commit) in enumerate(parents.items()):
        lines[commit] = 1 << place
        for parent in of_commit:
            lines[commit] |= lines.get(parent, 0)
    return lines


def _settled(commit: str, judge: Judge) -> str:
    """Ask until the verdict is one that decides; a commit that does not build will not build the next time."""
    said = ""
    for attempt in range(ATTEMPTS):
        said = judge(commit, attempt)
        if said in ("slower", "same", "faster", "no data"):
            break
    return said
