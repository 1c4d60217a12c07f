"""Overrides to grid points: each option is composed once, and the product over all keys is formed here.

Precedence: config < task < the task's scale < grid < command line.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

from cab.contracts.case import OTHERS
from cab.contracts.values import check_choice
from cab.errors import UsageError, unknown
from cab.planning.grids import blocks_of
from cab.planning.hyperparameters import check_inner_keys, combinations, hyperparameter_axes, inner_mechanisms
from cab.planning.overrides import INNER_KEYS, Axes, options, parse, root
from cab.planning.plugin_config import PluginConfig, at_scale, chosen_plugins
from cab.planning.schema import check_root
from cab.plugins.cards import Card

NESTED = ("training", "slurm", "ray")  # root keys that hold keys
OTHERS_KEY = "task.others"  # of every task: no hyper-parameter, for the task knows no mechanism


@dataclass(frozen=True)
class GridPoint:
    """One point of a grid, resolved. Points share dictionaries: copy before changing."""

    root: dict[str, Any]  # the root keys, all of them
    mechanism: Card
    params: dict[str, Any]  # the mechanism's hyper-parameters, all of them
    task: Card
    task_params: dict[str, Any]
    inners: tuple[Card, ...] = ()  # what a wrapper is put around
    others: str = OTHERS[0]  # what stands in the slots of the task's model that are not of the point's pattern


def points(overrides: list[str]) -> list[GridPoint]:
    """Expand overrides into points, the last key varying fastest; `UsageError` says what cannot be understood."""
    user_keys = parse(overrides)
    expanded: list[GridPoint] = []
    for grid in user_keys.pop("grid", [None]):
        for block in [user_keys] if grid is None else blocks_of(grid, user_keys):
            expanded += _expand(block)
    return expanded


def _expand(block: Axes) -> list[GridPoint]:
    """Return the points of one block: tasks, scales and mechanisms vary slowest."""
    for group in ("mechanism", "task"):
        if group not in block:
            raise UsageError(f"which {group}? Give {group}=NAME. Accepted: {', '.join(options(group)) or 'none'}")
    for key in block:
        _check_key(key)
    mechanisms = chosen_plugins("mechanism", block)
    variants = {each.option: _mechanism_variants(each, mechanisms, block) for each in mechanisms}
    check_inner_keys(mechanisms, block)
    tasks = chosen_plugins("task", block)
    expanded = []
    for task in tasks:
        for scale in block.get("scale", [task.case.get("scale", root()["scale"])]):
            settings = _task_variants(task, tasks, scale, block)
            for mechanism in mechanisms:
                expanded += [
                    GridPoint(root_keys, mechanism.card, params, task.card, task_params, inners, others)
                    for (root_keys, task_params, others), (params, inners) in product(
                        settings, variants[mechanism.option]
                    )
                ]
    return expanded


def _mechanism_variants(
    mechanism: PluginConfig, chosen: list[PluginConfig], block: Axes
) -> list[tuple[dict[str, Any], tuple[Card, ...]]]:
    """Return each choice of a mechanism's hyper-parameters, with the cards of what it is put around."""
    axes = hyperparameter_axes(mechanism, chosen, block)
    names = mechanism.inner_names
    inner_choices = list(product(*(inner_mechanisms(mechanism, name, block) for name in names)))
    variants = []
    for values, inners in product(combinations(axes), inner_choices):
        wrapped = {name: {"name": each.card.name, **each.params} for name, each in zip(names, inners, strict=True)}
        variants.append(({**mechanism.params, **values, **wrapped}, tuple(each.card for each in inners)))
    return variants


def _task_variants(
    task: PluginConfig, chosen: list[PluginConfig], scale: Any, block: Axes
) -> list[tuple[dict[str, Any], dict[str, Any], str]]:
    """Return each choice of the root keys, of the task's hyper-parameters, and of its others, at one of its scales."""
    axes = hyperparameter_axes(task, chosen, {key: block[key] for key in block if key != OTHERS_KEY})
    all_others = block.get(OTHERS_KEY, [OTHERS[0]])
    for others in all_others:
        check_choice(OTHERS_KEY, others, OTHERS)
    base, params = at_scale(task, scale)
    root_axes = {key: block[key] for key in block if "." not in key and key not in ("mechanism", "task", "scale")}
    nested_axes = {key: block[key] for key in block if key.partition(".")[0] in NESTED}
    variants = []
    for root_keys, nested in product(combinations(root_axes), combinations(nested_axes)):
        resolved = {**base, **root_keys}
        for group in NESTED:
            replaced = {key.removeprefix(f"{group}."): nested[key] for key in nested if key.startswith(f"{group}.")}
            resolved[group] = {**base[group], **replaced}
        check_root(resolved)
        variants += [
            (resolved, {**params, **values}, others) for values, others in product(combinations(axes), all_others)
        ]
    return variants


def _check_key(key: str) -> None:
    """Raise `UsageError` for a key that is no root key, no key of the recipe and no hyper-parameter."""
    root_keys = [name for name in root() if name not in NESTED]
    training_keys = [f"training.{name}" for name in root()["training"]]
    nested_keys = [f"{group}.{name}" for group in NESTED for name in root()[group]]
    if key in root_keys or key in nested_keys or key in INNER_KEYS.values():
        return
    group, _, name = key.partition(".")
    if name and group in NESTED:
        raise unknown("key", key, [each for each in nested_keys if each.startswith(f"{group}.")])
    if not name and f"training.{key}" in training_keys:  # steps=100
        raise UsageError(f"unknown key '{key}'; did you mean 'training.{key}'? It is of the recipe")
    if not name or group not in ("mechanism", "task"):
        hint = "Hyper-parameters: mechanism.KEY=VALUE, task.KEY=VALUE."
        raise unknown("key", key, [*root_keys, *training_keys], hint)
