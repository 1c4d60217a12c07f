"""What a mechanism reads: which of q, k and v, and which other inputs, for given hyper-parameters and a pattern.

The card declares both as plain literals, so that planning can say what a case needs without running the plug-in:

    reads = "qkv"                                    # always
    reads = (("qv", {"kind": "dense"}), "v")         # the first entry whose condition holds
    inputs = {
        "y": ("keys", "real", "width"),              # axis, kind, size
        "depth": ("queries", "index", 8, {"gate": "depth"}),   # only with this hyper-parameter
        "segment": ("both", "sorted"),               # ids of queries and of keys; what is only compared has no size
    }

A condition maps hyper-parameters to a value, to a tuple or list of values, or to {"not": a value or values}; all must
hold.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cab.contracts.pattern import Pattern

AXES = ("queries", "keys", "both")
# real: (batch, length, size). The others are whole numbers (batch, length): below `size`; only compared with each
# other; only compared, and in contiguous groups.
KINDS = ("real", "index", "id", "sorted")
SIZED = ("real", "index")
SIZES = ("dim", "heads", "tokens", "values", "width")  # names of a slot's sizes
TWIN = "source_"  # the keys' part of an input with axis `both` is called `source_<name>` in cross patterns


class Input(NamedTuple):
    """One input of `attend` beside q, k and v. `size` is a number, the name of a slot's size, or 0 for ids."""

    axis: str
    kind: str
    size: str | int = 0


def resolve_reads(declared: Any, params: Mapping[str, Any]) -> str:
    """Return which of q, k and v are read with these hyper-parameters; `ValueError` where no entry fits them."""
    if isinstance(declared, str):
        return declared
    reads = first_that_holds(declared, params)
    if reads is None:
        raise ValueError(f"reads: no entry of {declared!r} fits the hyper-parameters")
    return str(reads)


def resolve_inputs(declared: Mapping[str, Any], params: Mapping[str, Any], pattern: Pattern) -> dict[str, Input]:
    """Return name -> input with these hyper-parameters in this pattern.

    An input of both axes is one of the queries in self patterns. In cross patterns it is two: `name` of the queries and
    `source_name` of the keys.
    """
    resolved: dict[str, Input] = {}
    for name, entry in declared.items():
        entry = tuple(entry)
        if isinstance(entry[-1], Mapping):
            *entry, condition = entry
            if not holds(condition, params):
                continue
        axis, *rest = entry
        if axis != "both":
            resolved[name] = Input(axis, *rest)
            continue
        resolved[name] = Input("queries", *rest)
        if pattern.cross:
            resolved[TWIN + name] = Input("keys", *rest)
    return resolved


def first_that_holds(declared: Any, params: Mapping[str, Any]) -> Any:
    """Return the value of the first entry, a value or (value, condition), whose condition holds; None for none."""
    for entry in declared:
        if not isinstance(entry, tuple | list):
            return entry
        value, condition = entry
        if holds(condition, params):
            return value
    return None


def holds(condition: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """Whether every hyper-parameter of the condition has its value, one of its values, or none of those under `not`."""
    for name, wanted in condition.items():
        negated = isinstance(wanted, Mapping)
        values = wanted["not"] if negated else wanted
        if (params.get(name) in (values if isinstance(values, tuple | list) else (values,))) == negated:
            return False
    return True
