"""Which cases a comparison measures: those of `cab run`'s overrides or of a grid, put into public names alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cab.contracts.case import Case, digest
from cab.errors import UsageError
from cab.planning.plan import case_of
from cab.planning.points import GridPoint, points
from cab.plugins.cards import Card
from cab.tracking.worker import REFERENCE_KERNEL, instrument

PASSES = ("forward", "forward_backward")
DEFAULT = ["grid=track"]
_SLOT_SETTINGS = ("kv_heads", "value_dim", "raster", "source_raster")


@dataclass(frozen=True)
class TrackedCase:
    """A case with the name that it has in tables and histories, and the question that a worker is asked."""

    name: str
    question: dict[str, Any]

    @property
    def id(self) -> str:
        """Name the case in files: equal questions have equal ids."""
        return digest(self.question)


def tracked_cases(overrides: Sequence[str]) -> list[TrackedCase]:
    """Return the cases of these overrides, each once.

    A grid gives its own mechanisms; overrides without `task` are of `task=speed`. `UsageError` for a case that a worker
    cannot build from public names: another level than `attend`, another device than the CPU, another pass.
    """
    asked = list(overrides) or DEFAULT
    if not any(each.startswith(("task=", "grid=")) for each in asked):
        asked.append("task=speed")
    if not any(each.startswith("threads=") for each in asked):
        asked.append("threads=1")
    cases = [_tracked(point, case_of(point)) for point in points(asked)]
    by_name = {case.name: case for case in cases}
    if len(by_name) < len({case.id for case in cases}):
        raise UsageError("two cases have the same name: they differ in a key that no name tells")
    return list(by_name.values())


def with_instructions(case: TrackedCase) -> TrackedCase:
    """Return the case with its instructions counted too; `UsageError` where nothing here can count them."""
    if reason := instrument("callgrind").missing():
        raise UsageError(f"--instructions: {reason}")
    return replace(case, question={**case.question, "instructions": True})


def without_instructions(case: TrackedCase) -> TrackedCase:
    """Return the case without them: they take as long as ten pairs."""
    return replace(case, question={key: value for key, value in case.question.items() if key != "instructions"})


def reference_kernel() -> TrackedCase:
    """Return the control that has nothing of `cab` in it."""
    question = {"mechanism": REFERENCE_KERNEL, "options": {}, "params": [], "pass": "forward", "threads": 1}
    return TrackedCase(f"{REFERENCE_KERNEL} (control)", question)


def _tracked(point: GridPoint, case: Case) -> TrackedCase:
    for key, value, accepted in (
        ("level", case.level, ("attend",)),
        ("device", case.device, ("cpu",)),
        ("pass", case.pass_, PASSES),
        ("padding", case.settings.get("padding", 0.0), (0.0,)),
    ):
        if value not in accepted:
            raise UsageError(f"{key}={value}: cab track measures {key}={' or '.join(map(str, accepted))}")
    # what equals the constructor's default is left out: an older revision may not know it yet
    usual = point.mechanism.params
    params = {key: value for key, value in case.params.items() if key not in usual or usual[key] != value}
    if any(isinstance(value, dict) for value in params.values()):
        raise UsageError(f"{case.mechanism}: cab track does not measure wrappers")
    options = {"pattern": case.pattern, "heads": case.heads, "dim": case.dim, "max_len": case.n}
    options |= {"backend": case.backend, **params}
    if case.m != case.n:
        options["source_len"] = case.m
    options |= {key: case.settings[key] for key in _SLOT_SETTINGS if case.settings.get(key) is not None}
    question = {
        "mechanism": case.mechanism,
        "options": options,
        "params": sorted(params),
        "n": case.n,
        "m": case.m,
        "batch": case.batch,
        "dtype": case.dtype,
        "pass": case.pass_,
        "threads": case.settings.get("threads", 1),
    }
    return TrackedCase(_name(case, params, point.mechanism), question)


def _name(case: Case, params: dict[str, Any], card: Card) -> str:
    """Write what tells the case apart; sizes that are usual in `cab run` are part of it all the same."""
    lengths = f"n={case.n}" + (f" m={case.m}" if case.m != case.n else "")
    parts = [case.mechanism, case.pattern, lengths, f"batch={case.batch}", f"heads={case.heads}x{case.dim}", case.pass_]
    parts += [case.backend] if case.backend != "eager" else []
    parts += [case.dtype] if case.dtype != "float32" else []
    settings = {key: value for key, value in case.settings.items() if (key, value) != ("threads", 1)}
    return " ".join(parts + [f"{key}={value}" for key, value in {**params, **settings}.items()])
