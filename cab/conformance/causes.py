"""Which failures to mend first: others follow from them."""

from typing import Any

from cab.conformance.use import NOT_FINITE

# what changes its inputs, draws in each call, or is an item that is another one each time, is compared in vain
FIRST = ("untouched", "randomness", "items")


def precedence(failure: Any) -> int:
    """Return the place of a failure among those to mend, a `Verdict` or a `TaskVerdict` that is `fail`: 0 is the first.

    A law that an exception ended says nothing about what it demands.
    """
    if failure.status == "fail" and not failure.traceback:
        if failure.law in FIRST:
            return FIRST.index(failure.law)
        if failure.reason.startswith(NOT_FINITE):
            return len(FIRST)
    return len(FIRST) + 1


def comes_first(failure: Any) -> bool:
    """Whether other failures follow from this one."""
    return precedence(failure) <= len(FIRST)
