"""Which cases a comparison measures: those of `cab run`'s overrides or of a grid, put into public names alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from cab.contracts.case import Case, digest
from cab.errors import UsageError
from cab.planning.plan import case_of
from cab.planning.points import GridPoint, points
from cab.plugins.cards import Card
from cab.tracking.worker import DECODED_TOKENS, REFERENCE_KERNEL, instrument

PASSES = ("forward", "forward_backward", "decode")
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
    cannot build from public names: another level than `attend`, another device than CPU and CUDA, another pass. All
    cases are of one device: the environment of a comparison, and its controls, are of one.
    """
    asked = list(overrides or DEFAULT)
    if not any(each.startswith(("task=", "grid=")) for each in asked):
        asked.append("task=speed")
    cases = [_tracked(point, case_of(point)) for point in points(asked)]
    by_name = {case.name: case for case in cases}
    device_of(cases)
    if len(by_name) < len({case.id for case in cases}):
        raise UsageError("two cases have the same name: they differ in a key that no name tells")
    return list(by_name.values())


def device_of(cases: Sequence[TrackedCase]) -> str:
    """Return the device of these cases; `UsageError` where they are of several."""
    devices = sorted({case.question.get("device", "cpu") for case in cases})
    if len(devices) > 1:
        raise UsageError(f"device={','.join(devices)}: one comparison is of one device")
    return str(devices[0]) if devices else "cpu"


def with_instructions(case: TrackedCase) -> TrackedCase:
    """Return the case with its instructions counted too; `UsageError` where nothing here can count them."""
    if device_of([case]) != "cpu":
        raise UsageError(f"--instructions counts what the CPU executes: not for device={device_of([case])}")
    if reason := instrument("callgrind").missing():
        raise UsageError(f"--instructions: {reason}")
    return replace(case, question={**case.question, "instructions": True})


def without_instructions(case: TrackedCase) -> TrackedCase:
    """Return the case without them: they take as long as ten pairs."""
    return replace(case, question={key: value for key, value in case.question.items() if key != "instructions"})


def reference_kernel(device: str = "cpu") -> TrackedCase:
    """Return the control that has nothing of `cab` in it."""
    question = {"mechanism": REFERENCE_KERNEL, "options": {}, "params": [], "pass": "forward", "threads": 1}
    question |= {"device": device} if device != "cpu" else {}
    return TrackedCase(f"{REFERENCE_KERNEL} (control)", question)


def _tracked(point: GridPoint, case: Case) -> TrackedCase:
    for key, value, measured, why in (
        ("level", case.level, ("attend",), ": layers and models have no public name that an older revision would know"),
        ("device", case.device.partition(":")[0], ("cpu", "cuda"), ""),
        ("pass", case.pass_, PASSES, ""),
        ("padding", case.settings.get("padding", 0.0), (0.0,), ""),
    ):
        if value not in measured:
            raise UsageError(f"{key}={value}: cab track measures {key}={' or '.join(map(str, measured))}{why}")
    # what equals the constructor's default is left out: an older revision may not know it yet
    usual = point.mechanism.params
    params = {key: value for key, value in case.params.items() if key not in usual or usual[key] != value}
    if any(isinstance(value, dict) for value in params.values()):
        raise UsageError(f"{case.mechanism}: cab track does not measure wrappers")
    longest = case.n + (DECODED_TOKENS if case.pass_ == "decode" else 0)
    options = {"pattern": case.pattern, "heads": case.heads, "dim": case.dim, "max_len": longest}
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
        "threads": case.settings.get("threads", 1),  # where neither the user nor the grid says how many
    }
    question |= {"device": case.device} if case.device != "cpu" else {}  # ids of cases on the CPU stay as they were
    return TrackedCase(_name(case, params, point.mechanism), question)


def _name(case: Case, params: dict[str, Any], card: Card) -> str:
    """Write what tells the case apart; sizes that are usual in `cab run` are part of it all the same."""
    lengths = f"n={case.n}" + (f" m={case.m}" if case.m != case.n else "")
    parts = [case.mechanism, case.pattern, lengths, f"batch={case.batch}", f"heads={case.heads}x{case.dim}", case.pass_]
    parts += [case.backend] if case.backend != "eager" else []
    parts += [case.dtype] if case.dtype != "float32" else []
    parts += [case.device] if case.device != "cpu" else []
    settings = {key: value for key, value in case.settings.items() if (key, value) != ("threads", 1)}
    return " ".join(parts + [f"{key}={value}" for key, value in {**params, **settings}.items()])
