"""The search: the ends first, unclear steps again, and a range where a commit cannot be told."""

from collections.abc import Callable
from math import log
from random import Random

import pytest

from cab.errors import UsageError
from cab.tracking.bisect import ATTEMPTS, bisect, step_verdict

COMMITS = [f"c{i}" for i in range(20)]
CHAIN = {commit: [parent] for parent, commit in zip(["good", *COMMITS], COMMITS, strict=False)}


def history(culprit: str, **others: str) -> Callable[[str, int], str]:
    first = COMMITS.index(culprit)

    def judge(commit: str, attempt: int) -> str:
        if commit in others:
            return others[commit]
        return "slower" if commit in COMMITS[first:] else "same"

    return judge


@pytest.mark.parametrize("culprit", COMMITS)
def test_every_culprit_is_found_in_few_steps(culprit: str) -> None:
    judge, steps = history(culprit), list[str]()

    def counted(commit: str, attempt: int) -> str:
        steps.append(commit)
        return judge(commit, attempt)

    found = bisect("good", CHAIN, counted)
    assert found.commits == (culprit,) and len(steps) <= 2 + 5
    assert found.good == ("good" if culprit == "c0" else COMMITS[COMMITS.index(culprit) - 1])


def test_an_unclear_step_is_repeated() -> None:
    judge = history("c7")
    found = bisect("good", CHAIN, lambda commit, attempt: "unstable" if attempt < ATTEMPTS - 1 else judge(commit, 0))
    assert found.commits == ("c7",) and not found.unclear


def test_what_does_not_build_is_skipped_and_a_range_is_answered_where_it_hides_the_culprit() -> None:
    aside = bisect("good", CHAIN, history("c7", c9="no data", c10="no data"))
    assert aside.commits == ("c7",)
    hidden = bisect("good", CHAIN, history("c7", c6="no data", c7="no data", c8="unproven"))
    assert hidden.commits == ("c6", "c7", "c8", "c9") and hidden.good == "c5"
    assert set(hidden.skipped) == {"c6", "c7"} and hidden.unclear == ("c8",)


# two branches from one commit, a branch of one of them, and their merges
MERGED = {
    "start": ["good"], "a1": ["start"], "a2": ["a1"], "a3": ["a2"], "b1": ["start"], "b2": ["b1"], "side": ["b1"],
    "b3": ["b2", "side"], "b4": ["b3"], "merge": ["a3", "b4"], "last": ["merge"],
}  # fmt: skip


def descendants(culprit: str) -> set[str]:
    slow = {culprit}
    for commit, parents in MERGED.items():
        if slow & set(parents):
            slow.add(commit)
    return slow


@pytest.mark.parametrize("culprit", MERGED)
def test_of_merged_branches_the_commit_is_named_and_none_of_another_branch(culprit: str) -> None:
    slow, steps = descendants(culprit), list[str]()

    def judge(commit: str, attempt: int) -> str:
        steps.append(commit)
        return "slower" if commit in slow else "same"

    assert bisect("good", MERGED, judge).commits == (culprit,) and len(steps) <= 2 + 5


@pytest.mark.parametrize("culprit", MERGED)
@pytest.mark.parametrize("broken", MERGED)
def test_of_merged_branches_a_commit_without_data_never_hides_the_culprit(culprit: str, broken: str) -> None:
    slow = descendants(culprit)
    if broken == "last":
        return
    found = bisect(
        "good", MERGED, lambda commit, _: "no data" if commit == broken else "slower" if commit in slow else "same"
    )
    assert culprit in found.commits and (len(found.commits) == 1 or broken in found.commits)


def test_ends_that_do_not_reproduce_are_not_searched_between() -> None:
    with pytest.raises(UsageError, match="c19 is same against GOOD, and should be slower"):
        bisect("good", CHAIN, lambda commit, attempt: "same")
    with pytest.raises(UsageError, match="good is slower against GOOD"):
        bisect("good", CHAIN, lambda commit, attempt: "slower")
    with pytest.raises(UsageError, match="GOOD must be an ancestor"):
        bisect("good", {}, lambda commit, attempt: "slower")


def test_a_step_is_decided_by_half_of_the_bad_ends_change() -> None:
    around = [0.001 * i for i in range(-9, 9)]
    verdicts = {share: step_verdict([log(1 + share) + each for each in around], 0.08) for share in (0, 0.04, 0.08)}
    assert verdicts == {0: "same", 0.04: "unstable", 0.08: "slower"}
    assert step_verdict([log(0.9) + each for each in around], 0.08) == "same"


def simulated(culprit: str, draw: Random) -> Callable[[str, int], str]:
    """Judge by ratios of processes that differ by 5 %, where the culprit made the case 8 % slower."""
    slow, pooled = COMMITS[COMMITS.index(culprit) :], dict[str, list[float]]()

    def judge(commit: str, attempt: int) -> str:
        if commit == COMMITS[-1]:
            return "slower"
        pairs = pooled.setdefault(commit, [])
        pairs += [log(1.08 if commit in slow else 1) + draw.gauss(0, 0.05) for _ in range(18)]
        return step_verdict(pairs, 0.08)

    return judge


def test_8_percent_is_bisected_by_time_where_processes_differ_by_5_percent() -> None:
    found = {culprit: bisect("good", CHAIN, simulated(culprit, Random(i))) for i, culprit in enumerate(COMMITS)}
    assert sum(each.commits == (culprit,) for culprit, each in found.items()) >= len(COMMITS) - 1
