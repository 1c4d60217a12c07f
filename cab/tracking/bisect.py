"""`cab track bisect`: which commit made a case slower. An end is reproduced before anything is searched."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cab.errors import UsageError
from cab.tracking.signed_rank import effect

ATTEMPTS = 5  # at a step whose verdict is neither `slower` nor `same`

# (commit, attempt) -> a verdict of cab.tracking.verdicts of that commit against the good end, or "unproven"
Judge = Callable[[str, int], str]


@dataclass(frozen=True)
class Culprits:
    """The commits among which the one is that made the case slower, the oldest first; one where it is found."""

    commits: tuple[str, ...]
    good: str  # the newest commit that is known to be as fast as the good end
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


def bisect(good: str, commits: Sequence[str], judge: Judge) -> Culprits:
    """Search the commits after `good`, the oldest first; the last of them is the bad end.

    A step is repeated until its verdict is `slower` or `same`: one wrong step would blame an innocent commit. A commit
    that cannot be measured, or that stays unclear, is passed by, and its neighbours are asked instead.

    `UsageError` where the bad end is not slower, or where the good end is slower than itself.
    """
    if not commits:
        raise UsageError(f"there is no commit after {good[:12]}: GOOD must be an ancestor of BAD")
    bad = commits[-1]
    # the bad end first: what it shows decides what is asked of the others
    for commit, wanted in ((bad, "slower"), (good, "same")):
        said = _settled(commit, judge)
        if said != wanted:
            raise UsageError(
                f"{commit[:12]} is {said} against GOOD, and should be {wanted}: the ends do not reproduce, so that a "
                "search would blame an innocent commit"
            )
    low, high = -1, len(commits) - 1  # index of the newest good, -1 for the good end, and of the oldest bad
    skipped: list[str] = []
    unclear: list[str] = []
    while candidates := [c for c in commits[low + 1 : high] if c not in skipped and c not in unclear]:
        commit = candidates[len(candidates) // 2]
        said = _settled(commit, judge)
        if said == "slower":
            high = commits.index(commit)
        elif said == "same":
            low = commits.index(commit)
        else:
            (skipped if said == "no data" else unclear).append(commit)
    return Culprits(
        tuple(commits[low + 1 : high + 1]), commits[low] if low >= 0 else good, tuple(skipped), tuple(unclear)
    )


def _settled(commit: str, judge: Judge) -> str:
    """Ask until the verdict is one that decides; a commit that does not build will not build the next time."""
    said = ""
    for attempt in range(ATTEMPTS):
        said = judge(commit, attempt)
        if said in ("slower", "same", "faster", "no data"):
            break
    return said
