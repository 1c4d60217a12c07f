"""The card: the declarations of a mechanism class are well-formed."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from cab.attention.build import INNERS
from cab.conformance.subject import SCALES, LawBroken
from cab.contracts.accepted import refusal
from cab.contracts.mechanism import GRADES, Mechanism
from cab.contracts.pattern import Pattern
from cab.contracts.rasters import axes_of, entries_of
from cab.contracts.reads import AXES, KINDS, SIZED, SIZES

LIMIT_KEYS = {"params", "equals", "equals_params", "equals_weights", "times", "scales", "weights", "patterns"}


def card(cls: type[Mechanism]) -> None:
    """Each entry of the card has its form, and every hyper-parameter is a keyword with a JSON-able default."""
    names = _hyperparameters(cls)
    _check_patterns(cls)
    _check_reads(cls, names)
    _check_inputs(cls, names)
    _check_rasters(cls, names)
    _check_accepts(cls, names)
    _check_exemptions(cls)
    if not cls.checks:
        raise LawBroken("checks is empty: no law would be run")
    for limit in cls.limits:
        if not {"params", "equals"} <= set(limit) <= LIMIT_KEYS:
            raise LawBroken(f"limits: {limit!r} has other keys than {', '.join(sorted(LIMIT_KEYS))}")
        for name, factor in limit.get("scales", {}).items():
            if name not in ("q", "k", "v") or not (isinstance(factor, int | float) or factor in SCALES):
                raise LawBroken(f"limits: scales: {name!r}: {factor!r}; of q, k or v, a number or {_or(tuple(SCALES))}")
    for entry in (*cls.checks, *(limit["params"] for limit in cls.limits)):
        for name in entry:
            if name not in (*names, *INNERS, "patterns"):
                raise LawBroken(f"checks or limits: {name!r} is no hyper-parameter; there are: {', '.join(names)}")
        for pattern in entry.get("patterns", ()):
            if pattern not in Pattern.__members__:
                raise LawBroken(f"checks: {pattern!r} is no pattern")


def _check_patterns(cls: type[Mechanism]) -> None:
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


def _check_reads(cls: type[Mechanism], names: list[str]) -> None:
    entries = [cls.reads] if isinstance(cls.reads, str) else list(cls.reads)
    for entry in entries:
        reads, condition = (entry, {}) if isinstance(entry, str) else entry
        if "".join(name for name in "qkv" if name in reads) != reads:
            raise LawBroken(f"reads is {reads!r}, not some of 'qkv' in that order")
        _check_condition("reads", condition, names)
    if not isinstance(entries[-1], str):
        raise LawBroken("reads: the last entry has a condition, so some hyper-parameters have none")


def _check_inputs(cls: type[Mechanism], names: list[str]) -> None:
    for name, entry in cls.inputs.items():
        condition = entry[-1] if isinstance(entry[-1], Mapping) else {}
        axis, kind, *size = entry[:-1] if condition else entry
        if axis not in AXES or kind not in KINDS:
            raise LawBroken(f"inputs: {name!r}: {entry!r}; an axis is {_or(AXES)}, a kind {_or(KINDS)}")
        if (kind in SIZED) != (len(size) == 1):
            raise LawBroken(f"inputs: {name!r}: {entry!r}; {_or(SIZED)} have a size, ids have none")
        if size and not (isinstance(size[0], int) or size[0] in SIZES):
            raise LawBroken(f"inputs: {name!r} has the size {size[0]!r}; a number, or one of {', '.join(SIZES)}")
        _check_condition(f"inputs: {name!r}", condition, names)


def _check_condition(where: str, condition: Any, names: list[str]) -> None:
    for name, wanted in condition.items():
        if isinstance(wanted, Mapping) and set(wanted) != {"not"}:
            raise LawBroken(f"{where}: {wanted!r} is no condition; a value, values, or {{'not': a value or values}}")
        if name not in names:
            raise LawBroken(f"{where} depends on {name!r}, which is no hyper-parameter; there are: {', '.join(names)}")


def _check_accepts(cls: type[Mechanism], names: list[str]) -> None:
    """Each entry is of a hyper-parameter, has its form, and accepts the default."""
    parameters = inspect.signature(cls.__init__).parameters
    for name, rule in cls.accepts.items():
        if name not in names:
            raise LawBroken(f"accepts: {name!r} is no hyper-parameter; there are: {', '.join(names)}")
        default = parameters[name].default
        try:
            reason = refusal(name, default, rule, default)
        except ValueError as error:
            raise LawBroken(f"accepts: {name!r}: {error}") from None
        if reason:
            raise LawBroken(f"accepts: the default is refused: {reason}")


def _check_rasters(cls: type[Mechanism], names: list[str]) -> None:
    for what, declared in (("rasters", cls.rasters), ("source_rasters", cls.source_rasters)):
        if declared is None:
            continue
        entries = entries_of(declared)
        for entry, condition in entries:
            _check_condition(what, condition, names)
            for pattern in Pattern:
                axes = axes_of(entry, pattern.value, {})
                if not axes or any(not isinstance(number, int) or not 1 <= number <= 3 for number in axes):
                    raise LawBroken(f"{what}: {declared!r}; numbers of axes are 1, 2 and 3")
        if entries[-1][1]:
            raise LawBroken(f"{what}: the last entry has a condition, so some hyper-parameters have none")


def _check_exemptions(cls: type[Mechanism]) -> None:
    from cab.conformance.exemptions import Exemptions
    from cab.conformance.laws import EXEMPTIBLE

    for key, reason in cls.exempt.items():
        law, pattern = Exemptions.law_of(key), key.partition("@")[2]
        if law not in EXEMPTIBLE:
            raise LawBroken(f"exempt: {law!r} takes no exemption; these do: {', '.join(EXEMPTIBLE)}")
        if pattern and pattern not in Pattern.__members__:
            raise LawBroken(f"exempt: {key!r} names no pattern; write law@PATTERN")
        if not reason:
            raise LawBroken(f"exempt: {key!r} gives no reason")


def _hyperparameters(cls: type[Mechanism]) -> list[str]:
    """Return the names of the hyper-parameters, each of which is a keyword with a default that JSON can hold."""
    names = []
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[2:]:
        if name in INNERS:
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise LawBroken(f"hyper-parameter {name} is not a keyword with a default")
        try:
            json.dumps(parameter.default)
        except (TypeError, ValueError):
            raise LawBroken(f"hyper-parameter {name}: its default is not JSON") from None
        names.append(name)
    return names


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
