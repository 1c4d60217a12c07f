"""What `cab` raises at its users.

`UsageError` is for what was asked wrongly (exit code 2, one message, no stack trace). `Unsupported` is for what was
asked rightly and is impossible here, `Wrong` for a computation that fails its check; each becomes a row's status. A
hyper-parameter that is valid nowhere is a plain `ValueError`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """The request cannot be understood or carried out: says what was given, what is accepted and what to do."""


class Unsupported(Exception):
    """This mechanism cannot do this in this slot, backend, device, dtype or pass; `str` of it is the reason."""


class Wrong(Exception):
    """This mechanism does not compute what it should, so no number of it is given; `str` of it is the reason."""


def unknown(kind: str, given: str, accepted: Iterable[str], hint: str = "") -> UsageError:
    """Build the error for a name that is none of `accepted`, with the nearest one proposed."""
    names = sorted(accepted)
    near = get_close_matches(given, names, n=1, cutoff=0.6)
    guess = f"; did you mean '{near[0]}'?" if near else "."
    choices = ", ".join(names) if names else "none"
    return UsageError(f"unknown {kind} '{given}'{guess} Accepted: {choices}.{' ' + hint if hint else ''}")
