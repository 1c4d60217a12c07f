"""A case's task: constructed, with its data at hand. Torch is imported by the task alone."""

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.contracts.case import Case
from cab.errors import UsageError
from cab.plugins import registry

if TYPE_CHECKING:
    from cab.contracts.task import Source


def build_task(case: Case, cls: Any = None) -> Any:
    """Construct the case's task, of class `cls` or of the plug-in that the case names.

    `UsageError` where a hyper-parameter is valid nowhere.
    """
    cls = cls or registry.load("task", case.task)
    sizes = {"seq_len": case.n, "source_len": case.m, "heads": case.heads, "dim": case.dim}
    takes = signature(cls).parameters
    try:
        return cls(**{name: size for name, size in sizes.items() if name in takes}, **case.task_params)
    except (ValueError, TypeError) as error:
        raise UsageError(f"task '{case.task}': {error}") from error


def data_of(task: Any, name: str, folder: Path) -> "Source":
    """Return the data that the task would use now; `UsageError` says how to get them where there are none."""
    from cab.contracts.task import Missing

    source: Source | Missing = task.source(folder)
    if isinstance(source, Missing):
        raise UsageError(f"task '{name}': no data in {folder.absolute()}; run: {source.run}")
    return source
