"""Before anything is measured: import every plug-in, construct every mechanism and task, and say what is wrong."""

import dataclasses
import json
import traceback
from math import ceil, prod
from pathlib import Path
from typing import Any

from cab.contracts.case import Case
from cab.contracts.messages import PreflightAnswer, PreflightJob
from cab.errors import Unsupported, UsageError
from cab.plugins import registry
from cab.worker.task_setup import build_task, data_of

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
                    grade_of[key] = build_mechanism(cls, case.params, slot, case.backend).grade
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
    tasks = {json.dumps([c.task, c.task_params, c.pattern, c.n, c.m, c.heads, c.dim]): c for c in job.cases}
    for case in tasks.values():
        task = build_task(case)
        if task.trains:
            data_of(task, case.task, Path(job.data))
    return PreflightAnswer(refused, grades)


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
