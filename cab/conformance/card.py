"""The card: the declarations of a mechanism class are well-formed."""

import inspect
import json

from cab.conformance.subject import LawBroken
from cab.contracts.mechanism import GRADES, Mechanism
from cab.contracts.pattern import Pattern

SIZES = ("dim", "heads", "tokens", "values", "width")
LIMIT_KEYS = {"params", "equals", "equals_params", "weights", "patterns"}


def card(cls: type[Mechanism]) -> None:
    """Each entry of the card has its form, and every hyper-parameter is a keyword with a JSON-able default."""
    from cab.conformance.laws import EXEMPTIBLE

    patterns = cls.patterns
    if patterns != "inner":
        if not isinstance(patterns, dict) or not patterns:
            raise LawBroken("patterns is neither a dict of pattern to grade nor 'inner'")
        for pattern, grade in patterns.items():
            if pattern not in Pattern.__members__ or grade not in GRADES:
                raise LawBroken(f"patterns: {pattern!r}: {grade!r}; grades are {', '.join(GRADES)}")
    for pattern in cls.refuses:
        if pattern not in Pattern.__members__ or pattern in patterns:
            raise LawBroken(f"refuses: {pattern!r} is no pattern, or is one that is supported")
    if "".join(name for name in "qkv" if name in cls.reads) != cls.reads:
        raise LawBroken(f"reads is {cls.reads!r}, not some of 'qkv' in that order")
    for name, entry in cls.inputs.items():
        axis, kind, size = entry
        if axis not in ("queries", "keys") or kind not in ("real", "index"):
            raise LawBroken(f"inputs: {name!r}: {entry!r}; the form is (queries or keys, real or index, size)")
        if not (isinstance(size, int) or size in SIZES):
            raise LawBroken(f"inputs: {name!r} has the size {size!r}; a number, or one of {', '.join(SIZES)}")
    for law, reason in cls.exempt.items():
        if law not in EXEMPTIBLE:
            raise LawBroken(f"exempt: {law!r} takes no exemption; these do: {', '.join(EXEMPTIBLE)}")
        if not reason:
            raise LawBroken(f"exempt: {law!r} gives no reason")
    if not cls.checks:
        raise LawBroken("checks is empty: no law would be run")
    for limit in cls.limits:
        if not {"params", "equals"} <= set(limit) <= LIMIT_KEYS:
            raise LawBroken(f"limits: {limit!r} has other keys than {', '.join(sorted(LIMIT_KEYS))}")
    _check_hyperparameters(cls)


def _check_hyperparameters(cls: type[Mechanism]) -> None:
    names = []
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[2:]:
        if name == "inner":
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise LawBroken(f"hyper-parameter {name} is not a keyword with a default")
        try:
            json.dumps(parameter.default)
        except (TypeError, ValueError):
            raise LawBroken(f"hyper-parameter {name}: its default is not JSON") from None
        names.append(name)
    for entry in (*cls.checks, *(limit["params"] for limit in cls.limits)):
        for name in entry:
            if name not in names and name != "inner":
                raise LawBroken(f"checks or limits: {name!r} is no hyper-parameter; there are: {', '.join(names)}")
