"""Which mechanism, task and case do not go together, as far as their cards can say."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from cab.contracts.case import Case
from cab.contracts.pattern import Pattern
from cab.contracts.rasters import Layout, describe, layout_of, layouts
from cab.contracts.reads import first_that_holds, holds, resolve_inputs
from cab.errors import UsageError, unknown
from cab.planning.overrides import INNER_KEYS
from cab.planning.points import GridPoint
from cab.plugins import registry
from cab.plugins.cards import Card


def refusal(point: GridPoint, case: Case) -> str | None:
    """Say why the case of a point is `unsupported`, or None. A wrapper can do what all that is inside can."""
    plain = point.inners or (point.mechanism,)
    for card in plain:
        reason = (
            _of_pattern(card, case)
            or _of_heads(card, case)
            or _of_rasters(card, point.task, case)
            or _of_others(card, point.task, case)
        )
        if reason:
            return reason
    return (
        _of_backends(point, case)
        or _of_task(point.task, case)
        or case.contradiction()
        or _of_sharding(case)
        or _of_context_parallel(point.mechanism, case)
        or _of_streaming(plain, point.task, case)
        or _of_inputs(point, case)
    )


def check_backends(points: list[GridPoint]) -> None:
    """Raise `UsageError` for a backend that none of the mechanisms has.

    Where some have it, it is a refusal of the others.
    """
    backends = {backend for point in points for backend in backends_of(point)}
    for point in points:
        if point.root["backend"] not in backends:
            raise unknown("backend", str(point.root["backend"]), backends)


def check_meters(points: list[GridPoint]) -> None:
    """Raise `UsageError` where a metric of a meter that is asked for is another meter's, too."""
    asked = {str(meter) for point in points for meter in point.root["meters"]}
    owners: dict[str, str] = {}
    for meter in [*registry.names("meter"), *sorted(name for name in asked if registry.is_file(name))]:
        card = registry.cards_of("meter").get(meter) if not registry.is_file(meter) else registry.card("meter", meter)
        if card is None or isinstance(card, UsageError):
            continue
        for metric in card.facts["metrics"]:
            owner = owners.setdefault(metric, meter)
            if owner != meter and meter in asked:
                raise UsageError(f"the metric '{metric}' of {meter} is already one of the meter {owner}: rename yours")


def check_used(keys: Iterable[str], cases: Iterable[Case], engine: str) -> None:
    """Raise `UsageError` for a key of a recipe or a cluster that is given, where no case has one or it is another."""
    trains = any("training" in case.settings for case in cases)
    for key in keys:
        group = key.partition(".")[0]
        if group == "training" and not trains:
            raise UsageError(f"{key}: nothing is trained here. A training is pass=train of a task that learns.")
        if group in ("slurm", "ray") and group != engine:
            raise UsageError(f"{key}: it is read by engine={group} alone, and this run has engine={engine}")


def backends_of(point: GridPoint) -> list[str]:
    """Return the backends of a mechanism; of a wrapper, those of all that is inside."""
    first, *others = [card.backends for card in point.inners or (point.mechanism,)]
    return [backend for backend in first if all(backend in each for each in others)]


def grade_of(point: GridPoint, pattern: str) -> str:
    """Return the grade that the card gives in a pattern; of a wrapper, the weakest of what is inside."""
    order = ("", "native", "extension", "leaky")
    patterns = [card.facts["patterns"] for card in point.inners or (point.mechanism,)]
    return max((each.get(pattern, "") for each in patterns if isinstance(each, dict)), key=order.index, default="")


def _of_pattern(mechanism: Card, case: Case) -> str | None:
    patterns = mechanism.facts["patterns"]
    if isinstance(patterns, dict) and case.pattern not in patterns:
        why, supported = mechanism.facts["refuses"].get(case.pattern), ", ".join(patterns) or "none"
        return f"{mechanism.name} does not support {case.pattern}" + (f": {why}" if why else f" (supports {supported})")
    return None


def _of_others(mechanism: Card, task: Card, case: Case) -> str | None:
    """Refuse `same` of a mechanism that cannot be in all slots that the task names.

    The model may have slots of other patterns too: these refuse when it is built.
    """
    if case.others == "same":
        for pattern in task.facts["slots"]:
            reason = _of_pattern(mechanism, replace(case, pattern=pattern))
            if reason:
                return f"task.others=same: {reason}"
    return None


def _of_heads(mechanism: Card, case: Case) -> str | None:
    kv_heads = case.settings.get("kv_heads")
    if kv_heads not in (None, case.heads) and not mechanism.facts["grouped"]:
        return f"{mechanism.name} does not group queries (kv_heads={kv_heads}, heads={case.heads})"
    return None


def _of_rasters(mechanism: Card, task: Card, case: Case) -> str | None:
    """Refuse a layout that the mechanism does not take; what takes sequences alone gets a raster as a sequence."""
    facts = mechanism.facts
    accepted = layouts(facts["rasters"], facts["source_rasters"], Pattern.of(case.pattern), case.params)
    if case.level == "model":
        return _of_task_rasters(mechanism, accepted, task, case)
    raster = case.settings.get("raster")
    layout = layout_of(raster, case.settings.get("source_raster") if Pattern.of(case.pattern).cross else raster)
    if layout in accepted or (1, 1) in accepted:
        return None
    return f"{mechanism.name} takes {describe(accepted)}, not {describe([layout])}: raster=square, say"


def _of_task_rasters(mechanism: Card, accepted: tuple[Layout, ...], task: Card, case: Case) -> str | None:
    """Refuse a task whose slots have no layout that the mechanism takes."""
    axes = first_that_holds(task.facts["rasters"], case.task_params)
    if (axes, axes) in accepted:
        return None
    if (1, 1) not in accepted:
        return f"{mechanism.name} takes {describe(accepted)}, and {task.name} gives {describe([(axes, axes)])}"
    declared = task.facts["holes"]
    if axes > 1 and (declared is True or (isinstance(declared, Mapping) and holds(declared, case.task_params))):
        return f"{mechanism.name} takes {describe(accepted)}: in {task.name} any token of the raster may be masked"
    return None


def _of_backends(point: GridPoint, case: Case) -> str | None:
    backends = backends_of(point)
    if case.backend in backends:
        return None
    return f"{point.mechanism.name} has no backend {case.backend} (it has {', '.join(backends)})"


def _of_task(task: Card, case: Case) -> str | None:
    if case.pattern not in task.facts["slots"]:
        return f"{task.name} has no slot for {case.pattern} (it has {', '.join(task.facts['slots'])})"
    if case.level == "model" and not task.facts["trains"]:
        return f"{task.name} has no model: its levels are attend and layer"
    return None


def _of_sharding(case: Case) -> str | None:
    pretrain = case.settings.get("training", {}).get("pretrain")
    if "sharding" in case.settings and pretrain:
        return f"sharding={case.settings['sharding']}: FSDP2 takes over no weights from training.pretrain={pretrain}"
    return None


def _of_context_parallel(mechanism: Card, case: Case) -> str | None:
    """Refuse to divide over processes what PyTorch's context parallel does not divide, or not on the CPU."""
    count = case.settings.get("context_parallel")
    if count is None:
        return None
    key, noncausal = f"context_parallel={count}", Pattern.of(case.pattern) in (Pattern.NS, Pattern.NC)
    if mechanism.name != "softmax":
        return f"{key}: PyTorch divides softmax attention alone, not {mechanism.name}"
    if not noncausal:
        return f"{key} is of the patterns NS and NC, not {case.pattern}: PyTorch's causal form raises on the CPU"
    if (case.level, case.pass_) != ("attend", "forward"):
        return f"{key} is of level=attend pass=forward, not level={case.level} pass={case.pass_}"
    if case.backend != "sdpa":
        return f"{key}: PyTorch divides its fused kernel alone, backend=sdpa, not {case.backend}"
    options = [name for name in ("alibi", "sinks") if case.params.get(name)]
    options += [name for name in ("padding", "kv_heads") if name in case.settings]
    if options:
        return f"{key}: PyTorch divides attention without a mask, a bias or groups of heads, and not with {options[0]}"
    undivided = next((length for length in (case.n, case.m) if length % count), None)
    return f"{key}: {undivided} tokens are no multiple of it" if undivided else None


def refusal_of_meter(name: str, case: Case) -> str | None:
    """Say why a meter cannot measure a case that several processes compute together, or None."""
    count = case.settings.get("context_parallel")
    if count is None or (name == "latency" and "timer" not in case.settings):
        return None
    what = f"timer={case.settings['timer']}" if name == "latency" else name
    return f"context_parallel={count}: {what} would measure one of its processes; latency with timer=own times them all"


def _of_streaming(mechanisms: tuple[Card, ...], task: Card, case: Case) -> str | None:
    if case.pass_ == "decode" and case.level == "model":  # a mechanism that does not stream computes all tokens anew
        return None if "stream" in task.methods else f"{task.name} does not decode"
    if case.pass_ == "decode":
        for card in mechanisms:
            if "step" not in card.methods:
                return f"{card.name} does not stream"
    return None


def _of_inputs(point: GridPoint, case: Case) -> str | None:
    if not point.task.facts["trains"]:  # random tensors are drawn for whatever is read
        return None
    offered = ("x", "y", *point.task.facts["inputs"])  # the layer offers the tokens itself
    inners = [case.params[role] for role in INNER_KEYS if isinstance(case.params.get(role), Mapping)]
    cards: list[tuple[Card, Mapping[str, Any]]] = [(point.mechanism, case.params)]
    cards += [(card, params) for card, params in zip(point.inners, inners, strict=True)]
    for card, params in cards:
        for name in resolve_inputs(card.facts["inputs"], params, Pattern.of(case.pattern)):
            if name not in offered:
                return f"{card.name} needs the input '{name}', which {point.task.name} does not offer"
    return None
