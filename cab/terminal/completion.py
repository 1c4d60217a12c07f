"""TAB: what can follow on the command line. Reads names and cards only; a shell that waits half a second is broken."""

from cab.contracts.case import DTYPES, LEVELS, PASSES
from cab.contracts.pattern import Pattern
from cab.planning.overrides import options, root
from cab.plugins import registry
from cab.plugins.cards import Card

_VALUES = {"pattern": list(Pattern.__members__), "level": LEVELS, "pass": PASSES, "dtype": DTYPES}


def complete(args: list[str], incomplete: str) -> list[str]:
    """Return the completions of the last word. bash splits words at `=`, zsh and fish do not: both are understood."""
    if "=" in incomplete:
        key, _, value = incomplete.partition("=")
        return [f"{key}={v}" for v in _values(key, value, args)]
    if len(args) > 1 and args[-1] == "=":
        return _values(args[-2], incomplete, args)
    if args and not incomplete and "=" not in args[-1] and args[-1].partition(".")[0] in root():
        return _values(args[-1], "", args)  # the `=` itself was the last word
    keys = [f"{key}=" for key in root() if key != "training"]
    keys += [f"training.{key}=" for key in root()["training"]]
    keys += [f"mechanism.{param}=" for name in _chosen("mechanism", args) for param in _params("mechanism", name)]
    keys += [f"task.{param}=" for name in _chosen("task", args) for param in _params("task", name)]
    return [key for key in dict.fromkeys(keys) if key.startswith(incomplete)]


def _values(key: str, given: str, args: list[str]) -> list[str]:
    done, comma, last = given.rpartition(",")  # a sweep: mechanism=agent,so<TAB>
    if key in ("mechanism", "task", "grid"):
        names = options(key)
    elif key == "meters":
        return [f"[{name}]" for name in registry.names("meter")]
    elif key == "backend":
        names = list({b: None for name in _chosen("mechanism", args) for b in _card("mechanism", name).backends})
    else:
        names = list(_VALUES.get(key, ()))
    return [f"{done}{comma}{name}" for name in names if name.startswith(last) and name not in done.split(",")]


def _chosen(group: str, args: list[str]) -> list[str]:
    joined = " ".join(args).replace(" = ", "=").split()
    words = [word.partition("=")[2] for word in joined if word.startswith(f"{group}=")]
    return [name for word in words for name in word.split(",") if name in options(group)]


def _params(group: str, name: str) -> list[str]:
    return list(_card(group, name).params)


def _card(group: str, name: str) -> Card:
    return registry.card(group, name)
