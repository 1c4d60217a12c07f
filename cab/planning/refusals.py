"""Which mechanism, task and case do not go together, as far as their cards can say."""

from dataclasses import replace

from cab.contracts.case import Case
from cab.errors import unknown
from cab.planning.points import GridPoint
from cab.plugins.cards import Card


def refusal(point: GridPoint, case: Case) -> str | None:
    """Say why the case of a point is `unsupported`, or None."""
    reason = _reason(point.mechanism, point.task, case)
    # a wrapper can do what its inner mechanism can; the backends are the wrapper's own
    if reason is None and point.inner:
        reason = _reason(point.inner, point.task, replace(case, backend="eager"))
    return reason


def check_backends(points: list[GridPoint]) -> None:
    """Raise `UsageError` for a backend that none of the mechanisms has.

    Where some have it, it is a refusal of the others.
    """
    backends = {backend for point in points for backend in point.mechanism.backends}
    for point in points:
        if point.root["backend"] not in backends:
            raise unknown("backend", str(point.root["backend"]), backends)


def _reason(mechanism: Card, task: Card, case: Case) -> str | None:
    return (
        _of_mechanism(mechanism, case)
        or _of_task(task, case)
        or case.contradiction()
        or _of_streaming(mechanism, case)
        or _of_inputs(mechanism, task)
    )


def _of_mechanism(mechanism: Card, case: Case) -> str | None:
    facts, name = mechanism.facts, mechanism.name
    if isinstance(facts["patterns"], dict) and case.pattern not in facts["patterns"]:
        why = facts["refuses"].get(case.pattern)
        supported = ", ".join(facts["patterns"]) or "none"
        return f"{name} does not support {case.pattern}" + (f": {why}" if why else f" (supports {supported})")
    if case.backend not in mechanism.backends:
        return f"{name} has no backend {case.backend} (it has {', '.join(mechanism.backends)})"
    kv_heads = case.settings.get("kv_heads")
    if kv_heads not in (None, case.heads) and not facts["grouped"]:
        return f"{name} does not group queries (kv_heads={kv_heads}, heads={case.heads})"
    return None


def _of_task(task: Card, case: Case) -> str | None:
    if case.pattern not in task.facts["slots"]:
        return f"{task.name} has no slot for {case.pattern} (it has {', '.join(task.facts['slots'])})"
    if case.level == "model" and not task.facts["trains"]:
        return f"{task.name} has no model: its levels are attend and layer"
    return None


def _of_streaming(mechanism: Card, case: Case) -> str | None:
    if case.pass_ == "decode" and "step" not in mechanism.methods:
        return f"{mechanism.name} does not stream"
    return None


def _of_inputs(mechanism: Card, task: Card) -> str | None:
    offered = ("x", "y", *task.facts["inputs"])  # the layer offers the tokens itself
    missing = [name for name in mechanism.facts["inputs"] if name not in offered]
    if missing and task.facts["trains"]:
        return f"{mechanism.name} needs the input '{missing[0]}', which {task.name} does not offer"
    return None
