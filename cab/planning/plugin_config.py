"""A chosen plug-in with its hyper-parameters, as its YAML and the defaults of its constructor give them."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from cab.errors import UsageError, unknown
from cab.planning import overrides
from cab.planning.overrides import INNER_KEYS
from cab.planning.schema import SCALES
from cab.plugins import registry
from cab.plugins.cards import REQUIRED, Card


@dataclass(frozen=True)
class PluginConfig:
    """One option of the group `mechanism` or `task`. What it holds is shared: copy before changing."""

    option: str  # what the user chose: a plug-in, a YAML file of conf/, or a file of the user's own
    card: Card
    params: dict[str, Any]  # every hyper-parameter
    inners: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a wrapper: what its YAML puts it around
    case: dict[str, Any] = field(default_factory=dict)  # of a task: root keys
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a task: what each scale changes

    @property
    def wraps(self) -> bool:
        """Whether it is put around another mechanism."""
        return bool(self.card.facts.get("patterns") == "inner")

    @property
    def inner_names(self) -> list[str]:
        """Return which mechanisms it is put around: none, `inner`, or `inner` and `second`."""
        return [name for name in INNER_KEYS if name in self.card.takes] if self.wraps else []

    @property
    def scopes(self) -> set[str]:
        """Return the names by which a key can mean this plug-in alone, as `local` in `mechanism.local.window`."""
        return {self.option, self.card.class_name}


def configured(group: str, option: str) -> PluginConfig:
    """Return an option of `mechanism` or `task`; `UsageError` where it is unknown or its YAML does not fit."""
    if registry.is_file(option):
        card, from_yaml = registry.card(group, option), overrides.beside_file(option)
        from_yaml.pop("name", None)
    else:
        if option not in overrides.options(group):
            accepted = overrides.options(group)
            raise unknown(group, option, accepted, f"A file of your own: {group}=./file.py:Class")
        from_yaml = deepcopy(overrides.node(group, option))
        card = registry.card(group, str(from_yaml.pop("name", option)))
    if group == "task":
        case = from_yaml.pop("case", None) or card.facts["case"] or _usual_case(card)
        scales = from_yaml.pop("scales", None) or card.facts["scales"]
    else:
        case, scales = {}, {}
    wraps = group == "mechanism" and card.facts["patterns"] == "inner"
    inners = {name: from_yaml.pop(name) for name in INNER_KEYS if wraps and from_yaml.get(name) is not None}
    for name, inner in inners.items():
        if not isinstance(inner, dict) or "name" not in inner:
            raise UsageError(f"{_where(group, option)}: {name}={inner!r}: write {name}: {{name: agent}}")
    unexpected = set(from_yaml) - set(card.params)
    if unexpected:
        raise UsageError(f"{_where(group, option)} sets '{min(unexpected)}', which {card.class_name} does not take")
    params = {**card.params, **from_yaml}
    missing = [name for name, value in params.items() if value == REQUIRED]
    if missing:
        raise UsageError(f"{group} '{option}' gives no value for '{missing[0]}': add a default")
    return PluginConfig(option, card, params, inners, case, scales)


def _where(group: str, option: str) -> str:
    """Name the YAML of an option, for messages."""
    if registry.is_file(option):
        return f"{option.partition(':')[0].removesuffix('.py')}.yaml"
    return f"conf/{group}/{option}.yaml"


def _usual_case(task: Card) -> dict[str, Any]:
    """Return what a case of a task is that says nothing about it: one that trains is trained, in its first slot."""
    if not task.facts["trains"]:
        return {}
    pattern = task.facts["slots"][0]
    return {"pattern": pattern, "level": "model", "pass": "train", "meters": ["quality", "latency", "memory", "flops"]}


def chosen_plugins(group: str, block: overrides.Axes) -> list[PluginConfig]:
    """Return the options of `mechanism` or `task` that a block chooses, each once."""
    return [configured(group, option) for option in dict.fromkeys(map(str, block[group]))]


def at_scale(task: PluginConfig, scale: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the root keys and the task's hyper-parameters at a scale. Precedence: config < task < scale.

    Both are new dictionaries. `UsageError` where the task has no such scale, or its YAML sets an unknown key.
    """
    accepted = task.scales or SCALES
    if not isinstance(scale, str) or scale not in accepted:
        raise unknown(f"scale of {task.option}", str(scale), accepted)
    root = {key: value for key, value in deepcopy(overrides.root()).items() if key not in ("mechanism", "task", "grid")}
    params = dict(task.params)
    where = _where("task", task.option)
    for changes in (task.case, task.scales.get(scale) or {}):
        root_keys = deepcopy(changes)
        _update_known(params, root_keys.pop("task", {}), f"{where}: task")
        _update_known(root["training"], root_keys.pop("training", {}), f"{where}: training")
        _update_known(root, root_keys, where)
    root["scale"] = scale
    return root, params


def _update_known(target: dict[str, Any], changes: dict[str, Any], where: str) -> None:
    for key in changes:
        if key not in target:
            raise unknown(f"key in {where}", key, target)
    target.update(changes)
