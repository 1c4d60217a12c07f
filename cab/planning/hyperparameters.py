"""Overrides of hyper-parameters: `mechanism.window=8` of every chosen mechanism, `mechanism.local.window=8` of one.

A wrapper's inner mechanism is chosen by `mechanism@mechanism.inner=agent`, and `mechanism.inner.agents=8` is its own.
"""

from collections.abc import Callable
from itertools import product
from math import isfinite
from typing import Any

from cab.errors import UsageError, unknown
from cab.plugins.cards import Card
from cab.plugins.registry import is_file

Axes = dict[str, list[Any]]  # key -> its values, in the order given
INNER = "mechanism@mechanism.inner"  # which mechanism a wrapper is put around
_INNER = "mechanism.inner."  # what its keys begin with


def own_axes(group: str, name: str, chosen: dict[str, tuple[Card, dict[str, Any]]], block: Axes) -> Axes:
    """Return the axes of one plug-in's hyper-parameters: `mechanism.window` and `mechanism.local.window`."""
    axes: Axes = {}
    aliases = {alias for other, (card, _) in chosen.items() for alias in (other, card.class_name)}
    for key, values in block.items():
        parts = key.split(".")
        if parts[0] != group or len(parts) == 1 or key.startswith(_INNER):
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
            named = [chosen[other][0].class_name if is_file(other) else other for other in owners]
            hint = f"Only some take it: {group}.{named[0]}.{param}=..." if owners else ""
            raise unknown(f"hyper-parameter of {group} '{name}'", param, card.params, hint)
        for value in values:
            if not _fits(defaults[param], value):
                expected = "a finite number" if isinstance(defaults[param], float) else type(defaults[param]).__name__
                raise UsageError(f"{key}={value}: {group} '{name}' expects {expected}, as in {defaults[param]!r}")
        axes[param] = values
    return axes


def inner_choices(
    mechanisms: dict[str, tuple[Card, dict[str, Any]]],
    block: Axes,
    find: Callable[[str], tuple[Card, dict[str, Any]]],
) -> dict[str, list[tuple[Card, dict[str, Any]] | None]]:
    """Return, per mechanism, what it may be put around: cards with hyper-parameters, or [None] where it wraps nothing.

    `find` looks a mechanism up by its name. Takes `inner`, which a wrapper's YAML may set, out of the defaults.
    """
    own = {
        f"mechanism.{key.removeprefix('mechanism.inner.')}": values for key, values in block.items() if _INNER in key
    }
    found: dict[str, list[tuple[Card, dict[str, Any]] | None]] = {}
    for name, (card, defaults) in mechanisms.items():
        usual = defaults.pop("inner", None)
        if card.facts["patterns"] != "inner":
            found[name] = [None]
            continue
        within = {str(other): find(str(other)) for other in block.get(INNER, [usual["name"]] if usual else [])}
        if not within:
            raise UsageError(f"{name} wraps another mechanism: give it as {INNER}=NAME")
        if usual and usual["name"] in within:
            within[usual["name"]][1].update({key: value for key, value in usual.items() if key != "name"})
        found[name] = []
        for other, (its, values) in within.items():
            axes = own_axes("mechanism", other, within, own)
            for chosen in product(*axes.values()):
                params = {"name": its.name, **values, **dict(zip(axes, chosen, strict=True))}
                found[name].append((its, params))
    lost = [key for key in block if key == INNER or _INNER in key]
    if lost and all(each == [None] for each in found.values()):
        raise UsageError(f"'{lost[0]}': none of the chosen mechanisms wraps another")
    return found


def _fits(default: Any, value: Any) -> bool:
    """Whether a value is of its default's type; what a null default means only the constructor knows."""
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, type(default))
    if isinstance(default, float):
        return isinstance(value, int | float) and isfinite(value)
    return isinstance(value, type(default))
