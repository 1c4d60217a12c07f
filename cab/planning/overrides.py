"""Overrides to points: Hydra's grammar and composition, each option composed once, the product formed here.

`mechanism.window=8` must exist in every chosen mechanism; `mechanism.local.window=8` applies where `local` is chosen.
A grid is `blocks` of overrides: the keys of a block multiply, the blocks add up, and the user's own keys replace
theirs in every block. Precedence: config < task < the task's scale < grid < command line.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from cab.errors import UsageError, unknown
from cab.paths import beside
from cab.planning.grids import narrowed, scoped_elsewhere
from cab.planning.hyperparameters import INNER, Axes, inner_choices, own_axes
from cab.planning.schema import SCALES, check_root
from cab.plugins import registry
from cab.plugins.cards import REQUIRED, Card


@dataclass
class Point:
    """One point of the grid, resolved: the root keys, the mechanism and the task with their hyper-parameters."""

    root: dict[str, Any]
    mechanism: Card
    params: dict[str, Any]
    task: Card
    task_params: dict[str, Any]
    inner: Card | None = None  # what a wrapper is put around


def points(overrides: list[str]) -> list[Point]:
    """Expand overrides into points, the last key varying fastest; `UsageError` says what cannot be understood."""
    own = parse(overrides)
    grids = own.pop("grid", [None])
    found: list[Point] = []
    for grid in grids:
        for block in [own] if grid is None else _blocks(grid, own):
            found += _expand(block)
    return found


def parse(overrides: list[str]) -> Axes:
    """Read `key=value`, `key=a,b`, `key=range(1,5)`, `key=glob(*)` with Hydra's own grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, QuotedString, Transformer
    from hydra.errors import HydraException

    axes: Axes = {}
    parser = OverridesParser.create()
    for text in overrides:
        if "=" not in text:
            raise UsageError(f"'{text}' is not an override: write key=value, as in mechanism=agent or seq_len=512,1024")
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise UsageError(f"cannot read '{text}': {str(error).splitlines()[0]}") from error
        key = override.get_key_element().lstrip("+~")
        if text.startswith(("+", "~")) or (override.package is not None and key != INNER):
            raise UsageError(f"'{text}': every key of cab exists already; write key=value without +, ~ or @")
        value = override.value()
        if isinstance(value, Glob):
            values = [name for name in _options(key) if name in value.filter(_options(key))]
        elif override.is_sweep_override():
            try:
                values = list(override.sweep_iterator(Transformer.identity))
            except HydraException as error:
                raise UsageError(f"cannot expand '{text}': {str(error).splitlines()[0]}") from error
        else:
            values = [value]  # type: ignore[list-item]
        if not values:
            raise UsageError(f"'{text}' is an empty sweep: it stands for no value at all")
        axes[key] = [v.text if isinstance(v, QuotedString) else v for v in values]
    return axes


def options(group: str) -> list[str]:
    """Return the names that a group (`mechanism`, `task`, `grid`) takes: plug-ins and YAML presets."""
    presets = {path.stem for folder in folders() for path in (folder / group).glob("*.yaml")}
    return sorted(presets | set(registry.names(group) if group in registry.KINDS else ()))


@lru_cache
def folders() -> list[Path]:
    """Return conf/, and the folders of installed packages that add to it (entry points `cab.configs`)."""
    found = [beside("conf")]
    for point in registry.installed("cab.configs"):
        place = registry.source_of(point)
        found.append(place.parent if place.suffix else place)
    return found


@lru_cache
def node(group: str, name: str) -> dict[str, Any]:
    """Compose one option of a group: what its YAML says. The result is shared: copy before changing."""
    found = [folder / group / f"{name}.yaml" for folder in folders()]
    found = [path for path in found if path.is_file()]
    if len(found) > 1:
        raise UsageError(f"two files define {group}={name}: {' and '.join(map(str, found))}")
    if not found:
        return {"name": name}
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        loaded = OmegaConf.load(found[0])
        if "defaults" in loaded:  # an option that builds on others: Hydra puts them together
            loaded = _composed(group, name, found[0])
        plain = OmegaConf.to_container(loaded, resolve=True)
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise UsageError(f"{found[0]}: {error}") from error
    except Exception as error:  # a YAML error has no common base with the above
        raise UsageError(f"{found[0]} is not valid YAML: {error}") from error
    if not isinstance(plain, dict):
        raise UsageError(f"{found[0]}: expected keys and values")
    return plain  # type: ignore[return-value]


def _composed(group: str, name: str, path: Path) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra  # planning may run inside somebody's Hydra application
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(path.parents[1].absolute()), version_base="1.3"):
            return compose(f"{group}/{name}")[group]
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


@lru_cache
def root() -> dict[str, Any]:
    """Return conf/config.yaml. The result is shared: copy before changing."""
    from omegaconf import OmegaConf

    loaded = OmegaConf.to_container(OmegaConf.load(beside("conf") / "config.yaml"))
    assert isinstance(loaded, dict)
    return loaded  # type: ignore[return-value]


def _options(key: str) -> list[str]:
    return options(key.partition("@")[0]) if key in ("mechanism", "task", "grid", INNER) else []


def _blocks(grid: Any, own: Axes) -> Iterator[Axes]:
    if grid not in options("grid"):
        raise unknown("grid", str(grid), options("grid"))
    blocks = node("grid", grid).get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(b, list) for b in blocks):
        raise UsageError(f"grid '{grid}' must hold `blocks`, each a list of overrides")
    parsed = [parse([str(text) for text in block]) for block in blocks]
    used: set[str] = set()
    for theirs, mine in zip(parsed, narrowed(parsed, own, partial(_plugin, "mechanism")), strict=True):
        if mine is None:
            continue
        used |= set(mine)
        for group in ("mechanism", "task"):
            if group in own:  # who narrows a grid does not want what it says of the others
                theirs = {k: values for k, values in theirs.items() if not scoped_elsewhere(k, group, mine[group])}
        yield {**theirs, **mine}
    lost = [key for key in own if key not in used]
    if lost:
        raise UsageError(f"'{lost[0]}': no block of grid={grid} holds a mechanism that this is for")


def _expand(block: Axes) -> list[Point]:
    for key in ("mechanism", "task"):
        if key not in block:
            raise UsageError(f"which {key}? Give {key}=NAME. Accepted: {', '.join(options(key)) or 'none'}")
    _check_keys(block)
    found: list[Point] = []
    mechanisms = {name: _plugin("mechanism", name) for name in map(str, block["mechanism"])}
    inner = inner_choices(mechanisms, block, partial(_plugin, "mechanism"))
    tasks = {name: _plugin("task", name) for name in map(str, block["task"])}
    plain = {k: v for k, v in block.items() if "." not in k and k not in ("mechanism", "task", "scale")}
    recipe = {k: v for k, v in block.items() if k.startswith("training.")}
    own = {name: own_axes("mechanism", name, mechanisms, block) for name in mechanisms}
    task_own = {name: own_axes("task", name, tasks, block) for name in tasks}
    for task_name, (task, task_node) in tasks.items():
        for scale in block.get("scale", [task_node.get("case", {}).get("scale", root()["scale"])]):
            base, task_base = _scaled(task_name, task_node, task, scale)
            for name, (card, defaults) in mechanisms.items():
                axes = [plain, recipe, task_own[task_name], own[name]]
                for *values, within in product(*(v for axis in axes for v in axis.values()), inner[name]):
                    chosen = iter(values)
                    # shallow copies: what is nested deeper is never changed
                    own_root = {**base, "training": dict(base["training"])}
                    point = Point(own_root, card, dict(defaults), task, dict(task_base))
                    point.root.update({key: next(chosen) for key in plain})
                    point.root["training"].update({key.removeprefix("training."): next(chosen) for key in recipe})
                    point.task_params.update({key: next(chosen) for key in task_own[task_name]})
                    point.params.update({key: next(chosen) for key in own[name]})
                    if within is not None:
                        point.inner, point.params["inner"] = within
                    check_root(point.root)
                    found.append(point)
    return found


def _plugin(group: str, name: str) -> tuple[Card, dict[str, Any]]:
    """Return the card behind an option, and its hyper-parameters (of a task: its whole node)."""
    if registry.is_file(name):
        card = registry.card(group, name)
        given: dict[str, Any] = {}
    else:
        if name not in options(group):
            raise unknown(group, name, options(group), f"A file of your own: {group}=./file.py:Class")
        given = deepcopy(node(group, name))
        card = registry.card(group, str(given.pop("name", name)))
    if group == "task":
        known = {**card.params, "case": {}, "scales": {}}
    else:
        known = {**card.params, "inner": {}} if card.facts["patterns"] == "inner" else card.params
    extra = set(given) - set(known)
    if extra:
        raise UsageError(f"conf/{group}/{name}.yaml sets '{min(extra)}', which {card.class_name} does not take")
    values = {**card.params, **given}
    missing = [key for key, value in values.items() if value == REQUIRED]
    if missing:
        raise UsageError(f"{group} '{name}' gives no value for '{missing[0]}': add a default")
    return card, values


def _scaled(name: str, node: dict[str, Any], card: Card, scale: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the root keys and the task's hyper-parameters at a scale: config < task < scale."""
    scales = node.get("scales", {})
    accepted = scales or SCALES
    if not isinstance(scale, str) or scale not in accepted:
        raise unknown(f"scale of {name}", str(scale), accepted)
    merged = {k: v for k, v in deepcopy(root()).items() if k not in ("mechanism", "task", "grid")}
    params = {k: v for k, v in node.items() if k not in ("case", "scales")}
    for layer in (node.get("case", {}), scales.get(scale, {})):
        layer = deepcopy(layer)
        _update_known(params, layer.pop("task", {}), f"conf/task/{name}.yaml: task")
        _update_known(merged["training"], layer.pop("training", {}), f"conf/task/{name}.yaml: training")
        _update_known(merged, layer, f"conf/task/{name}.yaml")
    merged["scale"] = scale
    return merged, params


def _update_known(target: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    for key in changes:
        if key not in target:
            raise unknown(f"key in {where}", key, target)
    target.update(changes)


def _check_keys(block: Axes) -> None:
    for key in block:
        if key == INNER:
            continue
        first, _, rest = key.partition(".")
        if first == "training" and rest and rest not in root()["training"]:
            raise unknown("key", key, [f"training.{k}" for k in root()["training"]])
        if (
            not rest
            and (key not in root() or key == "training")
            or rest
            and first not in ("mechanism", "task", "training")
        ):
            near = [k for k in root() if k != "training"] + [f"training.{k}" for k in root()["training"]]
            raise unknown("key", key, near, "Hyper-parameters: mechanism.KEY=VALUE, task.KEY=VALUE.")
