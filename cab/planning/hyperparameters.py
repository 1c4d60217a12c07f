"""Hyper-parameters on the command line.

`mechanism.window=8` must exist in every chosen mechanism; `mechanism.local.window=8` is of `local` alone.
`mechanism@mechanism.inner=agent` chooses what a wrapper is put around, and `mechanism.inner.agents=8` is a
hyper-parameter of that; a wrapper of two has a `second` too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from cab.contracts.values import is_number
from cab.errors import UsageError, unknown
from cab.planning.overrides import INNER_KEYS, Axes
from cab.planning.plugin_config import PluginConfig, configured
from cab.plugins.registry import is_file


def hyperparameter_axes(plugin: PluginConfig, chosen: Sequence[PluginConfig], block: Axes) -> Axes:
    """Return the values that a block asks for of each hyper-parameter of one plug-in, by its bare name.

    `chosen` are all plug-ins of the group in the block. A key of one plug-in is left out for the others;
    `UsageError` where a key fits none of them, or a value is of another type than the default.
    """
    group = plugin.card.kind
    keys = {key: values for key, values in block.items() if key.startswith(f"{group}.") and not _is_of_inner(key)}
    return _axes(plugin, chosen, keys, prefix=group, chooser=group)


def inner_mechanisms(wrapper: PluginConfig, role: str, block: Axes) -> list[PluginConfig]:
    """Return what a wrapper is put around: each chosen mechanism with each choice of its hyper-parameters.

    `role` is `inner` or `second`.

    Without a choice it is the mechanism of the wrapper's YAML, if there is one. `UsageError` if there is none, and
    where one that is chosen is a wrapper itself.
    """
    default: dict[str, Any] = wrapper.inners.get(role, {})
    names = block.get(INNER_KEYS[role], [default["name"]] if default else [])
    if not names:
        raise UsageError(f"{wrapper.option} wraps another mechanism: give it as {INNER_KEYS[role]}=NAME")
    chosen = [configured("mechanism", name) for name in dict.fromkeys(map(str, names))]
    for each in chosen:
        if each.wraps:
            raise UsageError(
                f"{INNER_KEYS[role]}={each.option}: a wrapper cannot be wrapped; name a mechanism that wraps none"
            )
    if default:
        own = {name: value for name, value in default.items() if name != "name"}
        chosen = [
            replace(each, params={**each.params, **own}) if each.option == default["name"] else each for each in chosen
        ]
    prefix = f"mechanism.{role}"
    keys = {key: values for key, values in block.items() if key.startswith(f"{prefix}.")}
    return [
        replace(each, params={**each.params, **values})
        for each in chosen
        for values in combinations(_axes(each, chosen, keys, prefix=prefix, chooser=INNER_KEYS[role]))
    ]


def check_inner_keys(mechanisms: Sequence[PluginConfig], block: Axes) -> None:
    """Raise `UsageError` for a key of an inner mechanism where none of the mechanisms has a place for it."""
    for role, chooser in INNER_KEYS.items():
        keys = [key for key in block if key == chooser or key.startswith(f"mechanism.{role}.")]
        if keys and not any(role in each.inner_names for each in mechanisms):
            what = "wraps another" if role == "inner" else "wraps two others"
            raise UsageError(f"'{keys[0]}': none of the chosen mechanisms {what}")


def combinations(axes: Axes) -> Iterator[dict[str, Any]]:
    """Yield every choice of one value for each key, the last key varying fastest."""
    for values in product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _is_of_inner(key: str) -> bool:
    return key.startswith(tuple(f"mechanism.{role}." for role in INNER_KEYS))


def _axes(plugin: PluginConfig, chosen: Sequence[PluginConfig], keys: Axes, prefix: str, chooser: str) -> Axes:
    """Return the values of one plug-in's hyper-parameters from keys of the form PREFIX.KEY and PREFIX.NAME.KEY.

    A key with a name is of that plug-in alone, and stands above one without. `chooser` is the key that chose the
    plug-ins.
    """
    axes: Axes = {}
    for key, values in sorted(keys.items(), key=lambda item: item[0].count(".")):  # those with a name last
        *scope, name = key.removeprefix(f"{prefix}.").split(".")
        if len(scope) > 1:
            raise UsageError(f"'{key}' has too many parts: write {prefix}.KEY=VALUE or {prefix}.NAME.KEY=VALUE")
        if scope and not any(scope[0] in each.scopes for each in chosen):
            accepted = [_scope_of(each) for each in chosen]
            raise unknown(f"{prefix} in '{key}'", scope[0], accepted, f"It must be one of the chosen: {chooser}=...")
        if scope and scope[0] not in plugin.scopes:
            continue
        _check_name(name, plugin, chosen, prefix)
        for value in values:
            _check_type(key, value, plugin, plugin.params[name])
        axes[name] = values
    return axes


def _check_name(name: str, plugin: PluginConfig, chosen: Sequence[PluginConfig], prefix: str) -> None:
    """Raise `UsageError` unless the plug-in has a hyper-parameter of this name."""
    if name in plugin.card.params:
        return
    owner = next((each for each in chosen if name in each.card.params), None)
    hint = ""
    if owner is not None:
        hint = f"Only some take it: {prefix}.{_scope_of(owner)}.{name}=..."
    raise unknown(f"hyper-parameter of {plugin.card.kind} '{plugin.option}'", name, plugin.card.params, hint)


def _scope_of(plugin: PluginConfig) -> str:
    """Return what stands for a plug-in in PREFIX.NAME.KEY: its name, or the class of a user's file."""
    return plugin.card.class_name if is_file(plugin.option) else plugin.option


def _check_type(key: str, value: Any, plugin: PluginConfig, default: Any) -> None:
    """Raise `UsageError` unless a value is of the default's type."""
    if not _fits(default, value):
        what = f"{key}={value}: {plugin.card.kind} '{plugin.option}' expects"
        if default is None:
            raise UsageError(f"{what} no numbers but finite ones")
        expected = "a finite number" if isinstance(default, float) else type(default).__name__
        raise UsageError(f"{what} {expected}, as in {default!r}")


def _fits(default: Any, value: Any) -> bool:
    """Whether a value is of its default's type; what a null default means only the constructor knows."""
    if default is None or value is None:
        return default is None and _can_be_kept(value)
    if isinstance(default, bool) or isinstance(value, bool):  # Python's bool is an int
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return is_number(value)
    return isinstance(value, type(default)) and _can_be_kept(value)


def _can_be_kept(value: Any) -> bool:
    """Whether all numbers in a value are finite: no others are JSON."""
    if isinstance(value, list | tuple):
        return all(map(_can_be_kept, value))
    if isinstance(value, dict):
        return all(map(_can_be_kept, value.values()))
    return not isinstance(value, float) or is_number(value)
