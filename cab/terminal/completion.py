"""Completions of the command line, for TAB. They read names and cards only, so that a shell answers at once."""

from cab.contracts.case import DTYPES, LEVELS, OTHERS, PASSES
from cab.contracts.pattern import Pattern
from cab.planning.overrides import options, root
from cab.planning.points import NESTED, OTHERS_KEY
from cab.plugins import registry

_CHOICES = {
    "pattern": list(Pattern.__members__),
    "level": LEVELS,
    "pass": PASSES,
    "dtype": DTYPES,
    OTHERS_KEY: OTHERS,
}


def complete(args: list[str], incomplete: str) -> list[str]:
    """Return the completions of the last word. bash splits words at `=`; zsh and fish do not."""
    if "=" in incomplete:
        key, _, value = incomplete.partition("=")
        return [f"{key}={completion}" for completion in _values(key, value, args)]
    if len(args) > 1 and args[-1] == "=":  # bash: key, =, incomplete
        return _values(args[-2], incomplete, args)
    if args and not incomplete and "=" not in args[-1] and args[-1].partition(".")[0] in root():
        return _values(args[-1], "", args)  # bash: key, and `=` is the last word
    keys = [f"{key}=" for key in root() if key not in NESTED]
    keys += [f"{group}.{key}=" for group in NESTED for key in root()[group]]
    keys.append(f"{OTHERS_KEY}=")
    for group in ("mechanism", "task"):
        keys += [f"{group}.{param}=" for name in _names_in(group, args) for param in registry.card(group, name).params]
    return [key for key in dict.fromkeys(keys) if key.startswith(incomplete)]


def _values(key: str, incomplete: str, args: list[str]) -> list[str]:
    """Return the completions of a value. Of a sweep, as in `mechanism=agent,so`, the last value is completed."""
    complete_values, comma, last = incomplete.rpartition(",")
    if key == "meters":
        return [f"[{name}]" for name in registry.names("meter")]
    if key in ("mechanism", "task", "grid"):
        choices = options(key)
    elif key == "backend":
        cards = [registry.card("mechanism", name) for name in _names_in("mechanism", args)]
        choices = list(dict.fromkeys(backend for card in cards for backend in card.backends))
    else:
        choices = list(_CHOICES.get(key, ()))
    return [
        f"{complete_values}{comma}{choice}"
        for choice in choices
        if choice.startswith(last) and choice not in complete_values.split(",")
    ]


def _names_in(group: str, args: list[str]) -> list[str]:
    """Return the mechanisms or tasks that the command line names so far."""
    words = " ".join(args).replace(" = ", "=").split()
    values = [word.partition("=")[2] for word in words if word.startswith(f"{group}=")]
    return [name for value in values for name in value.split(",") if name in options(group)]
