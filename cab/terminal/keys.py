"""`cab show KEY`: what a key of `cab run` means, its default, what it accepts, and where it may stand.

The meaning is the comment beside the key in conf/config.yaml.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from cab.contracts.case import OTHERS
from cab.errors import UsageError, unknown
from cab.paths import beside
from cab.planning.overrides import root
from cab.planning.points import NESTED, OTHERS_KEY
from cab.planning.schema import CHOICES
from cab.plugins import registry
from cab.terminal.printing import print_pairs

_ONCE = ("engine", "workers", "retries", "bundle_minutes", *(group for group in NESTED if group != "training"))


@dataclass(frozen=True)
class Key:
    """A key of `cab run`."""

    name: str
    default: Any
    meaning: str

    @property
    def stands(self) -> str:
        """Say where it may stand."""
        if self.name == "grid":
            return "on the command line"
        if self.name.partition(".")[0] in _ONCE:
            return "in conf/config.yaml and on the command line, with one value for the whole run"
        if self.name in ("mechanism", "task"):
            return "in a grid's block and on the command line"
        return "in conf/config.yaml, a task's `case`, its `scales`, a grid's block and on the command line, which wins"


def keys() -> dict[str, Key]:
    """Return every key by its name, those of a group as `training.steps`."""
    defaults = root()
    return {key.name: key for key in _read((beside("conf") / "config.yaml").read_text(), defaults)}


def _read(text: str, defaults: dict[str, Any]) -> Iterator[Key]:
    group = ""
    for line in text.splitlines():
        match = re.match(r"( *)(\w+):([^#]*)(?:# *(.*))?$", line)
        if match is None:
            continue
        indent, name, value, comment = match.groups()
        if not indent:
            group = ""
        if not value.strip():
            group = name
            continue
        default = defaults[group][name] if group else defaults[name]
        yield Key(f"{group}.{name}" if group else name, default, comment or "")


def is_key(text: str) -> bool:
    """Say whether `cab show TEXT` asks for a key, for a group of keys, or for a hyper-parameter."""
    return text in keys() or text in NESTED or text.startswith(("mechanism.", "task."))


def print_key(text: str, out: Console) -> None:
    """Print a key, each key of a group, or which plug-ins have the hyper-parameter `mechanism.NAME`."""
    if text == OTHERS_KEY:
        _print_others(out)
        return
    if text.startswith(("mechanism.", "task.")):
        _print_hyperparameter(text, out)
        return
    known = keys()
    for key in [known[text]] if text in known else [key for name, key in known.items() if name.startswith(f"{text}.")]:
        default = "none: it must be given" if key.default == "???" else "null" if key.default is None else key.default
        facts = {"key": key.name, "meaning": key.meaning, "default": default}
        if key.name in CHOICES:
            facts["accepted"] = ", ".join(CHOICES[key.name])
        print_pairs({**facts, "stands": key.stands}, out)


def _print_others(out: Console) -> None:
    """Print the one key of a task that is no hyper-parameter of it."""
    facts = {
        "key": OTHERS_KEY,
        "meaning": "what stands in the slots of a task's model that are not of the case's pattern; "
        "same: the mechanism under test",
        "default": OTHERS[0],
        "accepted": ", ".join(OTHERS),
        "stands": "in a grid's block and on the command line",
    }
    print_pairs(facts, out)


def _print_hyperparameter(text: str, out: Console) -> None:
    kind, *_, name = text.split(".")
    owners = {
        plugin: card.params[name]
        for plugin, card in registry.cards_of(kind).items()
        if not isinstance(card, UsageError) and name in card.params
    }
    if not owners:
        every = {
            each
            for card in registry.cards_of(kind).values()
            if not isinstance(card, UsageError)
            for each in card.params
        }
        raise unknown(f"hyper-parameter of any {kind}", name, sorted(every))
    facts = {
        "key": f"{kind}.{name}",
        "meaning": f"a hyper-parameter of these {kind}s: cab show {kind}=NAME explains it",
    }
    print_pairs({**facts, **{f"default of {plugin}": value for plugin, value in owners.items()}}, out)
