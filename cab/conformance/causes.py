"""Which failures to mend first: others follow from them."""

from typing import Any

from cab.conformance.use import NOT_FINITE

# what changes its inputs, draws in each call, or is an item that is another one each time, is compared in vain
FIRST = ("untouched", "randomness", "items")


def comes_first(failure: Any) -> bool:
    """Whether other failures follow from this one: a `Verdict` or a `TaskVerdict` that is `fail`.

    A law that an exception ended says nothing about what it demands.
    """
    if failure.status != "fail" or failure.traceback:
        return False
    return failure.law in FIRST or failure.reason.startswith(NOT_FINITE)
