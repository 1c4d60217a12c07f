"""The search: the ends first, unclear steps again, and a range where a commit cannot be told."""

from collections.abc import Callable

import pytest

from cab.errors import UsageError
from cab.tracking.bisect import ATTEMPTS, bisect

COMMITS = [f"c{i}" for i in range(20)]


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

    found = bisect("good", COMMITS, counted)
    assert found.commits == (culprit,) and len(steps) <= 2 + 5
    assert found.good == ("good" if culprit == "c0" else COMMITS[COMMITS.index(culprit) - 1])


def test_an_unclear_step_is_repeated() -> None:
    judge = history("c7")
    found = bisect("good", COMMITS, lambda commit, attempt: "unstable" if attempt < ATTEMPTS - 1 else judge(commit, 0))
    assert found.commits == ("c7",) and not found.unclear


def test_what_does_not_build_is_skipped_and_a_range_is_answered_where_it_hides_the_culprit() -> None:
    aside = bisect("good", COMMITS, history("c7", c9="no data", c10="no data"))
    assert aside.commits == ("c7",)
    hidden = bisect("good", COMMITS, history("c7", c6="no data", c7="no data", c8="unproven"))
    assert hidden.commits == ("c6", "c7", "c8", "c9") and hidden.good == "c5"
    assert set(hidden.skipped) == {"c6", "c7"} and hidden.unclear == ("c8",)


def test_ends_that_do_not_reproduce_are_not_searched_between() -> None:
    with pytest.raises(UsageError, match="c19 is same against GOOD, and should be slower"):
        bisect("good", COMMITS, lambda commit, attempt: "same")
    with pytest.raises(UsageError, match="good is slower against GOOD"):
        bisect("good", COMMITS, lambda commit, attempt: "slower")
    with pytest.raises(UsageError, match="GOOD must be an ancestor"):
        bisect("good", [], lambda commit, attempt: "slower")
