"""Checks of single values, each with a message that says what was given and what is accepted."""

from collections.abc import Iterable
from math import inf, isfinite
from typing import Any

from cab.errors import UsageError, unknown


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, which a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # a whole number of 400 digits
        return False


def check_whole(key: str, value: Any, least: int) -> None:
    """Raise `UsageError` unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{key}={value}: expected a whole number of at least {least}")
    if value >= 2**31:
        raise UsageError(f"{key}={value}: expected a whole number below 2**31")


def check_number(
    key: str, value: Any, *, least: float | None = None, above: float | None = None, below: float = inf
) -> None:
    """Raise `UsageError` unless `value` is a finite number within the bounds; give one of `least` and `above`."""
    if is_number(value) and value < below and (value > above if above is not None else value >= (least or 0)):
        return
    lower = f"above {above:g}" if above is not None else f"at least {least or 0:g}"
    upper = f" and below {below:g}" if below < inf else ""
    raise UsageError(f"{key}={value}: expected a number {lower}{upper}")


def check_choice(key: str, value: Any, accepted: Iterable[str]) -> None:
    """Raise `UsageError` unless `value` is one of `accepted`; the nearest is proposed."""
    names = tuple(accepted)
    if value not in names:
        raise unknown(key, str(value), names)
