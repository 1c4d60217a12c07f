"""`cab data`: lists the data that the tasks would use, and fetches them. Imports torch, through the tasks."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cab.contracts.case import Case
from cab.contracts.task import Missing
from cab.errors import UsageError, unknown
from cab.planning.plan import case_of
from cab.planning.points import points
from cab.plugins import registry
from cab.worker.task_setup import build_task


def print_sources(folder: Path, out: Console) -> None:
    """Print, for each task that trains, the data that a run would use now."""
    for name in registry.names("task"):
        if not registry.card("task", name).facts["trains"]:
            out.print(f"[bold]{escape(name)}[/]: needs no data", highlight=False)
            continue
        try:
            source = _task(name).source(folder)
        except UsageError as error:
            out.print(f"[bold]{escape(name)}[/]: [red]unusable[/]: {escape(str(error))}", highlight=False)
            continue
        if isinstance(source, Missing):
            out.print(f"[bold]{escape(name)}[/]: [red]missing[/]; run: {escape(source.run)}", highlight=False)
            continue
        counts = ", ".join(f"{count:,} {split}" for split, count in source.counts.items())
        comparability = f"{'comparable' if source.comparable else 'not comparable'} with published numbers"
        line = f"[bold]{escape(name)}[/]: {escape(source.name)} ({counts}); {comparability}"
        out.print(line, highlight=False)
        if source.note:
            out.print(f"  {escape(source.note)}", highlight=False)


def fetch_data(name: str, folder: Path, out: Console, options: Sequence[str] = ()) -> None:
    """Fetch a task's data into `folder`. `options`, as in --images 20, are keyword arguments of the task's `fetch`."""
    card = registry.card("task", name)
    if not card.facts["trains"]:
        raise UsageError(f"task '{name}' needs no data")
    if "fetch" not in card.methods:
        raise UsageError(f"task '{name}' has nothing to fetch")
    task = _task(name)
    keywords = dict(_keywords(name, task.fetch, options))
    # what was asked for, where a hyper-parameter of that name chooses the data
    chosen = {key: value for key, value in keywords.items() if key in ("corpus", "series") and key in card.params}
    task = _task(name, chosen) if chosen else task
    try:
        folder.mkdir(parents=True, exist_ok=True)
        task.fetch(folder, **keywords)
    except OSError as error:
        raise UsageError(f"the data of '{name}' could not be brought to {folder.absolute()}: {error}") from error
    source = task.source(folder)
    if isinstance(source, Missing):
        raise UsageError(f"the data of '{name}' are still missing after fetching; run: {source.run}")
    if chosen:
        words = " ".join(f"task.{key}={value}" for key, value in chosen.items())
        out.print(f"{escape(name)}: {escape(source.name)} in {folder}; a run reads it with {words}", highlight=False)
    elif keywords:
        out.print(f"{escape(name)}: got into {folder}; at its usual settings a run reads: {escape(source.name)}")
    else:
        out.print(f"{escape(name)}: {escape(source.name)} in {folder}", highlight=False)


def _keywords(task: str, fetch: Any, options: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Parse --key value and --key=value; a value is converted to int where the signature of `fetch` says so."""
    parameters = {p.name: p for p in inspect.signature(fetch).parameters.values() if p.kind is p.KEYWORD_ONLY}
    remaining = list(options)
    while remaining:
        option, equals, value = remaining.pop(0).partition("=")
        key = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or key not in parameters:
            raise unknown(f"option of cab data get {task}", option, ["--folder", *(f"--{name}" for name in parameters)])
        if not equals and not remaining:
            raise UsageError(f"{option} needs a value, as in {option}=VALUE")
        value = value if equals else remaining.pop(0)
        if "int" in str(parameters[key].annotation):
            if not value.isdecimal():
                raise UsageError(f"{option}={value}: a whole number is needed")
            yield key, int(value)
        else:
            yield key, value


def _task(name: str, chosen: Mapping[str, Any] | None = None) -> Any:
    """Build a task as a run with its default settings would, but for the hyper-parameters chosen."""
    words = [f"task={name}", "mechanism=none", *(f"task.{key}={value}" for key, value in (chosen or {}).items())]
    case: Case = case_of(points(words)[0])
    return build_task(case)
