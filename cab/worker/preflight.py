"""Before anything is measured: import every plug-in, construct every mechanism and task, and say what is wrong.

Ids are looked at in the first training examples: a mechanism compares them or chooses by them, and a wrong one would
not fail but give another result.
"""

import dataclasses
import json
import traceback
from collections.abc import Iterable, Sequence
from math import ceil, prod
from pathlib import Path
from typing import Any

from cab.contracts.case import Case
from cab.contracts.messages import PreflightAnswer, PreflightJob
from cab.contracts.pattern import Pattern
from cab.errors import Unsupported, UsageError
from cab.plugins import registry
from cab.worker.task_setup import build_task, data_of

EXAMPLES = 8  # of training whose ids are looked at
LONG = 65536  # tokens of a slot that hyper-parameters which are valid anywhere should fit


def preflight(job: PreflightJob) -> PreflightAnswer:
    """Import every plug-in and construct every mechanism and task; return which cases are refused, and why, and grades.

    A grade is that of the instance, which its hyper-parameters may have lowered below the card's.

    `UsageError` for what is wrong in every slot: a hyper-parameter, an import that fails, a missing device or data.
    """
    import torch

    from cab.attention.build import build_mechanism, slot_of

    refused: dict[str, str] = {}
    grades: dict[str, str] = {}
    ids: dict[str, dict[str, tuple[str, int | None]]] = {}  # by what is constructed: the ids that it reads
    reasons: dict[str, str | None] = {}  # by what is constructed: None where it could be
    grade_of: dict[str, str] = {}  # likewise
    for case in job.cases:
        check_device(case.device)
        cls, slot = registry.load("mechanism", case.mechanism), slot_of(case)
        key = repr((case.mechanism, case.params, slot, case.backend))
        if key not in reasons:
            reasons[key] = None
            try:
                with torch.random.fork_rng(devices=[]):
                    mechanism = build_mechanism(cls, case.params, slot, case.backend)
                grade_of[key], ids[key] = mechanism.grade, _ids(mechanism)
            except Unsupported as error:
                reasons[key] = str(error)
            except (ValueError, TypeError) as error:
                if not _fits_a_longer_slot(cls, case, slot):
                    raise UsageError(f"mechanism '{case.mechanism}': {error}") from error
                reasons[key] = str(error)
            except Exception as error:  # too large for this machine, or a fault at one length: its own row will say so
                traceback.print_exception(error)
        reason = reasons[key]
        if reason is not None:
            refused[case.id] = reason
        elif key in grade_of:
            grades[case.id] = grade_of[key]
    for cases in _by_task(job.cases):
        task = build_task(cases[0])
        if not task.trains:
            continue
        data_of(task, cases[0].task, Path(job.data))
        batch = None
        for case in cases:
            read = ids.get(repr((case.mechanism, case.params, slot_of(case), case.backend)))
            if not read or case.level != "model":  # at the other levels inputs are drawn at random
                continue
            try:
                batch = _first_examples(task, case.seed) if batch is None else batch
            except Exception as error:  # a fault of this task: the rows of its cases will say so
                traceback.print_exception(error)
                break
            reason = _unfit(batch, read, case)
            if reason is not None and case.id not in refused:
                refused[case.id] = reason
                grades.pop(case.id, None)
    return PreflightAnswer(refused, grades)


def _by_task(cases: Sequence[Case]) -> Iterable[list[Case]]:
    """Return the cases of each task with its hyper-parameters and lengths."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        task = json.dumps([case.task, case.task_params, case.pattern, case.n, case.m, case.heads, case.dim])
        groups.setdefault(task, []).append(case)
    return groups.values()


def _ids(mechanism: Any) -> dict[str, tuple[str, int | None]]:
    """Return the ids that a mechanism reads -> their axis, and how many it takes, None where they are only compared."""
    slot = mechanism.slot
    return {
        name: (axis, None if kind != "index" else size if isinstance(size, int) else getattr(slot, size))
        for name, (axis, kind, size) in mechanism.inputs.items()
        if kind != "real"
    }


def _first_examples(task: Any, seed: int) -> Any:
    """Return a batch of the first training examples."""
    split = task.split("train", seed)
    return task.collate([split[i] for i in range(min(EXAMPLES, len(split)))], trim=True)


def _unfit(batch: Any, ids: dict[str, tuple[str, int | None]], case: Case) -> str | None:
    """Say which ids of a batch the case's mechanism cannot read; None where it can read all that are not padding."""
    for name, (axis, count) in ids.items():
        given = batch.inputs.get(name)
        if given is None:
            return f"{case.mechanism} needs the input '{name}', and a batch of {case.task} has none"
        if given.is_floating_point() or given.is_complex():
            return (
                f"{case.mechanism} reads '{name}' as ids, and {case.task} gives {given.dtype}: whole numbers are needed"
            )
        of_tokens = _without_padding(given, batch, on_source=axis == "keys" and Pattern.of(case.pattern).cross)
        if count is None or not of_tokens.numel():
            continue
        low, high = int(of_tokens.min()), int(of_tokens.max())
        if low < 0 or high >= count:
            return (
                f"{case.mechanism} takes ids from 0 to {count - 1} as '{name}', and {case.task} gives {low} to {high}"
            )
    return None


def _without_padding(ids: Any, batch: Any, on_source: bool) -> Any:
    """Return the ids of the real tokens; all where no mask of the batch is of their shape.

    Where both masks are, that of the source counts for the ids of keys in a cross pattern, and the queries' for others.
    """
    masks = [batch.y_mask, batch.x_mask] if on_source else [batch.x_mask, batch.y_mask]
    mask = next((each for each in masks if each is not None and each.shape == ids.shape[:2]), None)
    return ids if mask is None else ids[mask]


def _fits_a_longer_slot(cls: type[Any], case: Case, slot: Any) -> bool:
    """Whether the hyper-parameters are valid in a longer slot, as more landmarks than this one has tokens."""
    import torch

    from cab.attention.build import build_mechanism

    raster, source_raster = _longer(slot.raster), _longer(slot.source_raster)
    longer = dataclasses.replace(
        slot,
        raster=raster,
        source_raster=source_raster,
        max_len=prod(raster) if raster else LONG,
        source_len=prod(source_raster) if source_raster else LONG,
    )
    try:
        with torch.device("meta"):
            build_mechanism(cls, case.params, longer)
    except Exception:
        return False
    return True


def _longer(raster: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return a raster of the same shape with at least `LONG` tokens; None for a sequence."""
    if raster is None:
        return None
    factor = ceil((LONG / prod(raster)) ** (1 / len(raster)))
    return tuple(side * max(factor, 1) for side in raster)


def check_device(device: str) -> None:
    """Raise `UsageError` where this machine has no such device."""
    import torch

    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if device not in available and not (device == "cuda" and "cuda:0" in available):
        raise UsageError(f"device={device} is not available here. Available: {', '.join(available)}")
