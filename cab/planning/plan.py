"""Points to work: which cases there are, which metrics each gives, what is refused, and under which key it is kept.

The plan imports no torch. One `Item` is one meter on one case, that is, one file of the store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import Case, digest
from cab.contracts.meter import Meter
from cab.contracts.pattern import Pattern
from cab.errors import UsageError, unknown
from cab.paths import PACKAGE
from cab.planning.overrides import Point, points
from cab.planning.schema import memory_bytes
from cab.plugins import cards, fingerprint, registry
from cab.plugins.cards import Card

_TIMING_DEFAULTS = {"padding": 0.0, "kv_heads": None, "value_dim": None, "threads": None}
_TRAINING_DEFAULTS = {"devices": 1, **dict.fromkeys(("patience", "validate", "test", "pretrain"))}


@dataclass(frozen=True)
class Item:
    """One meter on one case."""

    case: Case
    meter: str
    version: int  # of the meter's method
    metrics: dict[str, tuple[str, bool | None]]  # name -> unit, higher is better
    key: str  # what the answer depends on besides the question
    identity: dict[str, Any]  # of the environment that the key holds for
    processes: int
    pinned: bool
    hosted: bool  # whether the host matters
    grade: str
    task_version: int
    timeout: float
    memory_limit: int | None
    source: str = ""  # fingerprint of mechanism and task
    files: tuple[str, ...] = ()  # which it is of
    refusal: tuple[str, str] | None = None  # a status and its reason, known before anything runs
    trains: bool = False
    searches: bool = False

    @property
    def file(self) -> str:
        """Name the file of the store that holds this item."""
        return f"{self.case.id}-{self.key}"


@dataclass
class Plan:
    """Everything that was asked for, in the order in which it is measured."""

    items: list[Item] = field(default_factory=list)

    @property
    def cases(self) -> list[Case]:
        """Return the cases, each once, in order."""
        return list({item.case.id: item.case for item in self.items}.values())


def plan(overrides: Sequence[str], data: Path = Path("data")) -> Plan:
    """Plan what `cab run` is asked; `UsageError` where nothing of it can be measured. `data`: the tasks' folder."""
    found: dict[str, Item] = {}
    expanded = points(list(overrides))
    _check_backends(expanded)
    data_of, source_of = cache(partial(fingerprint.of_data, data)), cache(fingerprint.of)  # as all lies now
    for point in expanded:
        for item in _items(point, case_of(point), data_of, source_of):
            found.setdefault(item.file, item)  # points that come out identical are one case
    cards.keep()
    items = list(found.values())
    if not items:
        meters = ", ".join(expanded[0].root["meters"])
        raise UsageError(f"no metric of meters=[{meters}] applies to what was asked")
    if all(item.refusal for item in items):
        reasons = dict.fromkeys(item.refusal[1] for item in items if item.refusal)
        raise UsageError(f"nothing of this can be measured: {'; '.join(list(reasons)[:5])}")
    # seeds outermost: a drift of the machine then hits every mechanism alike, and a cut run has whole comparisons
    return Plan(sorted(items, key=lambda item: item.case.seed))


def case_of(point: Point) -> Case:
    """Return the case that a point asks for; in self patterns there is no source, and m is n."""
    root = point.root
    cross = Pattern.of(root["pattern"]).cross
    settings = {key: root[key] for key, usual in _TIMING_DEFAULTS.items() if root[key] != usual}
    if point.task.facts["trains"] and root["pass"] == "train":
        settings["training"] = {
            key: value
            for key, value in root["training"].items()
            if (key not in _TRAINING_DEFAULTS or value != _TRAINING_DEFAULTS[key])
            and (not key.startswith("pretrain_") or root["training"]["pretrain"])
        }
    return Case(
        mechanism=point.mechanism.name,
        params=point.params,
        pattern=root["pattern"],
        task=point.task.name,
        task_params=point.task_params,
        n=root["seq_len"],
        m=(root["source_len"] or root["seq_len"]) if cross else root["seq_len"],
        batch=root["batch"],
        heads=root["heads"],
        dim=root["dim"],
        dtype=root["dtype"],
        device=root["device"],
        backend=root["backend"],
        level=root["level"],
        pass_=root["pass"],
        seed=root["seed"],
        scale=root["scale"],
        settings=settings,
    )


def _items(
    point: Point, case: Case, data_of: Callable[[tuple[str, ...]], str], source_of: Callable[..., str]
) -> list[Item]:
    root, found = point.root, []
    inner = [point.inner.path] if point.inner else []
    files = tuple(map(str, (point.mechanism.path, *inner, point.task.path, *_harness(case))))
    source = source_of(*files)
    patterns = (point.inner or point.mechanism).facts["patterns"]
    refusal = _refusal(point, case)
    found_data = data_of(tuple(point.task.facts["data"])) if case.level == "model" else ""
    for name in dict.fromkeys(root["meters"]):
        meter = _meter(name)
        asked = {key: root[key] for key, usual in meter.asks.items() if root[key] != usual}
        if "memory_limit" in asked:
            asked["memory_limit"] = memory_bytes(asked["memory_limit"])
        asked_case = replace(case, settings={**case.settings, **asked}) if asked else case
        metrics = dict(meter.applies(asked_case))
        if name == "quality" and point.task.facts["trains"] and case.pass_ == "train":
            metrics = {k: (unit, higher) for k, (unit, higher) in point.task.facts["metrics"].items()}
        if not metrics:
            continue
        why = meter.unavailable(case.device)
        facts = environment.identity(case.device, case.settings.get("threads"), meter.pinned_allocator)
        given = [name, meter.version, source, facts if meter.environment else None]
        given += [text for text in (found_data, why) if text]  # what is not there now may be installed later
        key = digest(given)
        found.append(
            Item(
                case=asked_case,
                meter=name,
                version=meter.version,
                metrics=metrics,
                key=key,
                identity=facts,
                processes=meter.processes,
                pinned=meter.pinned_allocator,
                hosted=meter.environment,
                grade=patterns.get(case.pattern, "") if isinstance(patterns, dict) else "",
                task_version=point.task.facts["version"],
                timeout=root["timeout"],
                memory_limit=memory_bytes(root["memory_limit"]),
                source=source,
                files=files,
                refusal=refusal or (("unsupported", why) if why else None),
                trains=name == "quality",
                searches=meter.searches,
            )
        )
    return found


def _harness(case: Case) -> list[str]:
    """Return what of `cab` a case's answer depends on beside its plug-ins: the layer around the mechanism."""
    return [] if case.level == "attend" else [str(PACKAGE / "attention" / "layer.py")]


@lru_cache
def _meter(name: str) -> Meter:
    meter = registry.load("meter", name)()
    assert isinstance(meter, Meter)
    return meter


def _refusal(point: Point, case: Case) -> tuple[str, str] | None:
    reason = _impossible(point.mechanism, point.task, case)
    if point.inner:  # a wrapper can do what its inner mechanism can, and the wrapper alone has backends
        reason = reason or _impossible(point.inner, point.task, replace(case, backend="eager"))
    return ("unsupported", reason) if reason else None


def _impossible(mechanism: Card, task: Card, case: Case) -> str | None:
    """Say why this mechanism, task and case do not go together, from the cards alone."""
    facts, trains = mechanism.facts, task.facts["trains"]
    if isinstance(facts["patterns"], dict) and case.pattern not in facts["patterns"]:
        why = facts["refuses"].get(case.pattern)
        supported = ", ".join(facts["patterns"]) or "none"
        return f"{mechanism.name} does not support {case.pattern}" + (f": {why}" if why else f" (supports {supported})")
    if case.pattern not in task.facts["slots"]:
        return f"{task.name} has no slot for {case.pattern} (it has {', '.join(task.facts['slots'])})"
    if case.backend not in mechanism.backends:
        return f"{mechanism.name} has no backend {case.backend} (it has {', '.join(mechanism.backends)})"
    if case.settings.get("kv_heads") not in (None, case.heads) and not facts["grouped"]:
        return f"{mechanism.name} does not group queries (kv_heads={case.settings['kv_heads']}, heads={case.heads})"
    if case.level == "model" and not trains:
        return f"{task.name} has no model: its levels are attend and layer"
    for key in ("kv_heads", "value_dim", "padding"):
        if case.level == "model" and key in case.settings:
            return (
                f"{key}={case.settings[key]} is of the levels attend and layer: a task's model and data have their own"
            )
    if case.pass_ == "train" and case.dtype != "float32":
        return f"dtype={case.dtype}: the precision of a training step is training.precision"
    if case.pass_ == "train" and case.level != "model":
        return f"pass=train is of the level model, not {case.level}"
    pretrain = case.settings.get("training", {}).get("pretrain")
    if pretrain and case.pattern != {"mlm": "NS", "clm": "CS"}[pretrain]:
        return f"training.pretrain={pretrain} is of {'NS' if pretrain == 'mlm' else 'CS'}, not {case.pattern}"
    if case.pass_ == "decode":
        if case.level != "attend":
            return f"pass=decode is of the level attend, not {case.level}"
        if not Pattern.of(case.pattern).causal:
            return f"pass=decode needs a causal pattern, not {case.pattern}"
        if "step" not in mechanism.methods:
            return f"{mechanism.name} does not stream"
    lacks = [name for name in facts["inputs"] if name not in ("x", "y", *task.facts["inputs"])]
    if lacks and trains:
        return f"{mechanism.name} needs the input '{lacks[0]}', which {task.name} does not offer"
    return None


def _check_backends(expanded: list[Point]) -> None:
    """Refuse a backend that none of the chosen mechanisms has; where some have it, the others are `unsupported`."""
    had = {backend for point in expanded for backend in point.mechanism.backends}
    for point in expanded:
        if point.root["backend"] not in had:
            raise unknown("backend", str(point.root["backend"]), had)
