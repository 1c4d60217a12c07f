"""A case's task and its data. Imports no torch itself; the task may."""

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

    `UsageError` where its constructor refuses a size or a hyper-parameter.
    """
    cls = cls or registry.load("task", case.task)
    sizes = {"seq_len": case.n, "source_len": case.m, "heads": case.heads, "dim": case.dim, "pattern": case.pattern}
    accepted = signature(cls).parameters
    try:
        return cls(**{name: size for name, size in sizes.items() if name in accepted}, **case.task_params)
    except (ValueError, TypeError) as error:
        raise UsageError(f"task '{case.task}': {error}") from error


def data_of(task: Any, name: str, folder: Path) -> "Source":
    """Return the data that the task uses now; where they are missing, `UsageError` says how to get them."""
    from cab.contracts.task import Missing

    source: Source | Missing = task.source(folder)
    if isinstance(source, Missing):
        raise UsageError(f"task '{name}': no data in {folder.absolute()}; run: {source.run}")
    return source
