"""Overrides of hyper-parameters: `mechanism.window=8` of every chosen mechanism, `mechanism.local.window=8` of one."""

from typing import Any

from cab.cards import Card
from cab.errors import UsageError, unknown

Axes = dict[str, list[Any]]  # key -> its values, in the order given


def own_axes(group: str, name: str, chosen: dict[str, tuple[Card, dict[str, Any]]], block: Axes) -> Axes:
    """Return the axes of one plug-in's hyper-parameters: `mechanism.window` and `mechanism.local.window`."""
    axes: Axes = {}
    aliases = {alias for other, (card, _) in chosen.items() for alias in (other, card.class_name)}
    for key, values in block.items():
        parts = key.split(".")
        if parts[0] != group or len(parts) == 1:
            continue
        scoped = len(parts) == 3
        if len(parts) > 3:
            raise UsageError(f"'{key}' has too many parts: write {group}.KEY=VALUE or {group}.NAME.KEY=VALUE")
        if scoped and parts[1] not in aliases:
            raise unknown(f"{group} in '{key}'", parts[1], chosen, f"It must be one of the chosen: {group}=...")
        if scoped and parts[1] not in (name, chosen[name][0].class_name):
            continue
        card, defaults = chosen[name]
        param = parts[-1]
        if param not in card.params:
            owners = [other for other, (c, _) in chosen.items() if param in c.params]
            hint = f"Only some take it: {group}.{owners[0]}.{param}=..." if owners else ""
            raise unknown(f"hyper-parameter of {group} '{name}'", param, card.params, hint)
        for value in values:
            if not _fits(defaults[param], value):
                expected = type(defaults[param]).__name__
                raise UsageError(f"{key}={value}: {group} '{name}' expects {expected}, as in {defaults[param]!r}")
        axes[param] = values
    return axes


def _fits(default: Any, value: Any) -> bool:
    """Whether a value is of its default's type; what a null default means only the constructor knows."""
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, type(default))
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))
