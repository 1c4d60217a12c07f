"""Which values of a hyper-parameter a mechanism accepts, as its card says it.

    accepts = {
        "bias": ("table", "none"),   # one of these
        "window": ">= 1",            # a whole number where the default is one
        "share": "> 0, <= 1",        # all of these
        "conv": "0 or odd",          # one of the two
        "rank": "whole, >= 1",       # of a default None, which stays accepted
    }

Words beside the comparisons: `whole`, `odd`, `even`, `power of two`.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from operator import ge, gt, le, lt
from typing import Any

_COMPARISONS = {">=": ge, ">": gt, "<=": le, "<": lt}
_WORDS: dict[str, Callable[[Any], bool]] = {
    "whole": lambda value: isinstance(value, int),
    "odd": lambda value: isinstance(value, int) and value % 2 == 1,
    "even": lambda value: isinstance(value, int) and value % 2 == 0,
    "power of two": lambda value: isinstance(value, int) and value > 0 and not value & (value - 1),
}


def check_accepted(accepts: Mapping[str, Any], params: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a hyper-parameter of `params` has a value that its entry in `accepts` leaves out."""
    for name, rule in accepts.items():  # a derived class may have no such hyper-parameter: the law `card` says so
        if name in params and (reason := refusal(name, params[name], rule, defaults[name])):
            raise ValueError(reason)


def refusal(name: str, value: Any, rule: Any, default: Any) -> str | None:
    """Return why a value is not accepted, or None where it is; `ValueError` where the rule says nothing that is known.

    A number is whole where the default is whole, and None is accepted where it is the default.
    """
    if not isinstance(rule, str):
        known = tuple(rule)
        return None if value in known else f"{name}={value!r}: one of {', '.join(map(str, known))}"
    whole = isinstance(default, int)
    alternatives = [[_condition(word.strip()) for word in each.split(",")] for each in rule.split(" or ")]
    if value is None and default is None:
        return None
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and isfinite(value)
    if number and any(all(condition(value) for condition in each) for each in alternatives):
        return None
    return f"{name}={value!r}: a {'whole ' if whole else ''}number is needed, {rule}"


def _condition(word: str) -> Callable[[Any], bool]:
    if word in _WORDS:
        return _WORDS[word]
    sign, _, bound = word.rpartition(" ")
    try:
        limit = float(bound)
    except ValueError:
        limit = None
    if limit is None or sign not in ("", *_COMPARISONS):
        raise ValueError(
            f"{word!r} is no condition: a number, one of {', '.join(_COMPARISONS)} and a number, or one of "
            f"{', '.join(_WORDS)}"
        )
    if not sign:
        return lambda value: bool(value == limit)
    return lambda value: bool(_COMPARISONS[sign](value, limit))
