"""Before anything is paid: import every plug-in, construct every mechanism and task, and say what is wrong."""

import dataclasses
import json
import traceback
from pathlib import Path
from typing import Any

from cab.contracts.case import Case
from cab.errors import Unsupported, UsageError
from cab.plugins import registry

LONG = 65536  # tokens


def preflight(job: dict[str, Any]) -> dict[str, Any]:
    """Import every plug-in and construct every mechanism and task; say which cases are refused, and why.

    What is wrong in every slot (`ValueError`, an import that fails, data that is missing) is a usage error.
    """
    import torch

    from cab.attention.build import build_mechanism, slot_of

    refused: dict[str, str] = {}
    built: dict[str, str | None] = {}
    for question in job["cases"]:
        case = Case.of(question)
        check_device(case.device, torch)
        cls, slot = registry.load("mechanism", case.mechanism), slot_of(case)
        key = repr((case.mechanism, case.params, slot, case.backend))
        if key not in built:
            try:
                with torch.random.fork_rng(devices=[]):
                    build_mechanism(cls, case.params, slot, case.backend)
                built[key] = None
            except Unsupported as reason:
                built[key] = str(reason)
            except (ValueError, TypeError) as error:
                if not _fits_a_longer_slot(cls, case, slot):
                    raise UsageError(f"mechanism '{case.mechanism}': {error}") from error
                built[key] = str(error)
            except Exception as error:  # too large for this machine, or a fault at one length: the case's own row
                traceback.print_exception(error)
                built[key] = None
        if built[key] is not None:
            refused[case.id] = str(built[key])
    for question in {
        json.dumps([q["task"], q["task_params"], q["n"], q["m"], q["heads"], q["dim"]]): q for q in job["cases"]
    }.values():
        _check_task(Case.of(question), Path(job["data"]))
    return {"refused": refused}


def _fits_a_longer_slot(cls: type[Any], case: Case, slot: Any) -> bool:
    """Whether the hyper-parameters are valid somewhere: more landmarks than this slot has tokens, say."""
    import torch

    from cab.attention.build import build_mechanism

    if slot.raster is not None:
        return False
    source = LONG if slot.pattern.cross else None
    try:
        with torch.device("meta"):
            build_mechanism(cls, case.params, dataclasses.replace(slot, max_len=LONG, source_len=source or LONG))
    except Exception:
        return False
    return True


def check_device(device: str, torch: Any) -> None:
    """Raise `UsageError` where this machine has no such device."""
    available = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if device not in available and not (device == "cuda" and "cuda:0" in available):
        raise UsageError(f"device={device} is not available here. Available: {', '.join(available)}")


def _check_task(case: Case, folder: Path) -> None:
    from cab.contracts.task import Missing

    task = build_task(case)
    if task.trains:
        source = task.source(folder)
        if isinstance(source, Missing):
            raise UsageError(f"task '{case.task}': no data in {folder.absolute()}; run: {source.run}")


def build_task(case: Case) -> Any:
    """Construct the case's task; `UsageError` where a hyper-parameter is valid nowhere."""
    cls = registry.load("task", case.task)
    sizes = {"seq_len": case.n, "source_len": case.m, "heads": case.heads, "dim": case.dim}
    takes = registry.card("task", case.task).takes
    try:
        return cls(**{name: sizes[name] for name in takes}, **case.task_params)
    except (ValueError, TypeError) as error:
        raise UsageError(f"task '{case.task}': {error}") from error
