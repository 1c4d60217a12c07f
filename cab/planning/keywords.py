"""Keys of `cab run` given from Python: `seq_len=[512, 1024]` becomes the override `seq_len=512,1024`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.planning.overrides import root

_PLAIN = re.compile(r"[A-Za-z_./-][\w./:+-]*")  # a path that Hydra's grammar reads as it is
_LISTS = ("raster", "source_raster")  # keys whose value is a list, beside those whose default is one
_OPTIONS = ("mechanism", "task")  # groups whose options have keys of their own


def overrides_of(keys: Mapping[str, Any], accepted: Iterable[str] = ()) -> list[str]:
    """Return the overrides that `keys` stand for, in their order.

    A list sweeps, `window=[8, 16]`; a tuple is one value that is a list, and so is a list where the key takes one, as
    `meters=["latency", "flops"]`. A string is what it is on the command line. `pass_` stands for `pass`. Keys with a
    dot are given as such, `{"training.lr": 0.1}`, or as a dictionary of their group, `training={"lr": 0.1}`; in those
    of `mechanism` and `task`, `name` is the option itself.

    `UsageError` for a key that `cab run` does not have, where `accepted` names others that the caller takes, and for a
    value that is none.
    """
    return [text for key, value in keys.items() for text in _overrides(_checked(key, accepted), value)]


def _checked(key: str, accepted: Iterable[str]) -> str:
    key = {"pass_": "pass"}.get(key, key)
    group = key.partition(".")[0].partition("@")[0]
    if group in root():
        return key
    for name, value in root().items():
        if isinstance(value, dict) and key in value:
            raise UsageError(f"unknown keyword '{key}'; write {name}={{'{key}': ...}}, or {{'{name}.{key}': ...}}")
    names = ["pass_" if name == "pass" else name for name in root()]
    raise unknown("keyword", key, [*names, *accepted], "Keys with a dot: a dictionary, as in training={'steps': 100}.")


def _overrides(key: str, value: Any) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{key}={_text(key, value)}"
        return
    top = key in root()
    if not (key in _OPTIONS or key.startswith("mechanism.") or isinstance(root().get(key), dict)):
        raise UsageError(f"{key}={dict(value)}: {key} has no keys of its own; give its value, or a list of values")
    if "name" in value:
        chooser = key if top else f"mechanism@{key}"  # a mechanism inside a wrapper
        yield f"{chooser}={_text(chooser, value['name'])}"
    for name, each in value.items():
        if name != "name":
            yield from _overrides(f"{key}.{name}", each)


def _text(key: str, value: Any) -> str:
    """Write the value of a key, or its values, in Hydra's grammar."""
    if isinstance(value, range) or (isinstance(value, list) and not _takes_a_list(key)):
        values = list(value)
    elif isinstance(value, list) and value and any(isinstance(each, list | tuple) for each in value):
        values = value  # a sweep over lists
    else:
        values = [value]
    if not values:
        raise UsageError(f"{key}=[]: an empty list stands for no value at all")
    return ",".join(_one(key, each) for each in values)


def _takes_a_list(key: str) -> bool:
    group, _, name = key.partition(".")
    default = root().get(group)
    return key in _LISTS or isinstance(default.get(name) if isinstance(default, dict) and name else default, list)


def _one(key: str, value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Pattern):
        return value.value
    if isinstance(value, list | tuple):
        return f"[{','.join(_one(key, each) for each in value)}]"
    if isinstance(value, Path):
        text = str(value)
        return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "\\'") + "'"
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's, too
        return str(bool(value)).lower()
    if isinstance(value, str | Number):
        return str(value)
    file = " A class is given by its file, as ./file.py:Class." if isinstance(value, type) else ""
    raise UsageError(f"{key}={value!r}: expected a text, a number, true or false, None, or a list of them.{file}")
