"""The command that repeats a case: `cab run` with every key that the case was asked with."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from cab.analysis.ranking import unmarked

_PLAIN = re.compile(r"[A-Za-z_./-][\w./:+-]*")  # a text that Hydra's grammar reads as it is
# column of a question -> key of the command line
_KEYS = {
    "task": "task", "pattern": "pattern", "n": "seq_len", "batch": "batch", "heads": "heads", "dim": "dim",
    "dtype": "dtype", "device": "device", "level": "level", "pass": "pass", "scale": "scale",
}  # fmt: skip


def command(mechanism: str, params: Mapping[str, Any], backend: str, question: Mapping[str, Any], seeds: str) -> str:
    """Return the command that measures a mechanism on a question, for seeds such as `0` or `0,1`."""
    return f"cab run {mechanism_words(mechanism, params, backend)} {question_words(question)} seed={seeds}"


def mechanism_words(mechanism: str, params: Mapping[str, Any], backend: str) -> str:
    """Return the overrides that choose a mechanism with its hyper-parameters and backend."""
    words = [f"mechanism={_value(unmarked(mechanism))}"]
    for name, value in params.items():
        if isinstance(value, dict) and "name" in value:  # a mechanism inside a wrapper
            words.append(f"mechanism@mechanism.{name}={_value(value['name'])}")
            words += [f"mechanism.{name}.{key}={_value(each)}" for key, each in value.items() if key != "name"]
        else:
            words.append(f"mechanism.{name}={_value(value)}")
    words.append(f"backend={_value(backend or 'eager')}")
    return " ".join(map(shlex.quote, words))


def question_words(question: Mapping[str, Any]) -> str:
    """Return the overrides that ask a question: its columns and its settings."""
    words = [f"{key}={_value(question[name])}" for name, key in _KEYS.items()]
    if question["m"] != question["n"]:
        words.append(f"source_len={question['m']}")
    for name, value in _flat(json.loads(question["settings"] or "{}")):
        words.append(f"{name}={_value(value)}")
    return " ".join(map(shlex.quote, words))


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys of settings: the groups `task` and `training` have keys of their own, and `others` is a task's."""
    for name, value in settings.items():
        if name in ("task", "training") and isinstance(value, dict):
            yield from ((f"{name}.{key}", each) for key, each in value.items())
        else:
            yield "task.others" if name == "others" else name, value


def _value(value: Any) -> str:
    """Write a value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, str) and not (
        _PLAIN.fullmatch(value) and value not in ("null", "true", "false", "nan", "inf")
    ):
        escaped = value.replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
