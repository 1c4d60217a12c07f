"""The terminal, and what a run and its preview print."""

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cab.planning.variation import flat, recipes, varying
from cab.plugins import registry

if TYPE_CHECKING:
    from cab.runner.cost_estimates import Estimate
    from cab.runner.run import Preview, Run
    from cab.store.store import Store

MAX_CASES = 40  # of a preview that are printed
MAX_REASONS = 5  # why cases were not estimated
_FIRST = ("mechanism", "pattern", "task", "n", "m")  # columns of a preview, where they vary
_NUMBER_COLUMNS = ("n", "m", "batch", "seed")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 case`, `1,200 cases`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_damaged(stores: "Iterable[Store]") -> None:
    """Name on stderr the damaged files that were set aside while stores were read."""
    console = Console(stderr=True, emoji=False)
    for path in [path for store in stores for path in store.damaged]:
        text = f"a damaged results file was set aside: {path}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


class _PipedConsole(Console):
    """Prints `file.py:One:` as it stands, where rich would see the name of an emoji.

    Raises BrokenPipeError where the reader of a pipe has gone; rich would exit with an error code.
    """

    def __init__(self, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, emoji=False)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """Return the terminal, or, where the output is a file or a pipe, lines of `COLUMNS`, or else 120, columns."""
    terminal = _PipedConsole(stderr=stderr)
    if terminal.is_terminal:
        return terminal
    columns = os.environ.get("COLUMNS", "")
    return _PipedConsole(stderr=stderr, width=int(columns) if columns.isdecimal() and int(columns) > 0 else 120)


def print_preview(preview: "Preview", out: Console) -> None:
    """Print what a run would do: how many cases there are, what is done already, and the cases."""
    plan = preview.plan
    processes = sum(measurement.processes for measurement in plan.measurements)
    most = sum(measurement.most_processes for measurement in plan.measurements)
    children = f"{processes}, at most {most}" if most > processes else str(processes)
    meters = ", ".join(dict.fromkeys(measurement.meter for measurement in plan.measurements))
    measurements = f"measurements: {len(plan.measurements)} ({meters})"
    out.print(f"cases: {len(plan.cases)}; {measurements}; child processes: {children}")
    out.print(f"measurements done already: {preview.done}; unsupported: {preview.refused}")
    estimates = {estimate.case.id: estimate for estimate in preview.estimates}
    refusals = {measurement.case.id: measurement.refusal[1] for measurement in plan.measurements if measurement.refusal}
    differing = varying(plan.cases)
    columns = [key for key in _FIRST if key in differing] or ["mechanism"]
    by_task = recipes(plan.cases)
    recipe = {key for values in by_task.values() for key in values}
    columns += [key for key in differing if key not in columns and key not in recipe]
    if plan.cases:
        of_one = tuple(f"{key}." for key in ("mechanism", "task") if key in differing)  # not of all
        same = flat(plan.cases[0]).items()
        shown = [*columns, *recipe]
        text = " ".join(f"{key}={value}" for key, value in same if key not in shown and not key.startswith(of_one))
        out.print(f"in all cases: {escape(text)}", highlight=False)
    for task, values in by_task.items():
        text = " ".join(f"{key}={value}" for key, value in values.items())
        out.print(f"in all cases of {escape(task)}: {escape(text)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in columns:
        whole = "." not in name  # the name of a hyper-parameter may be folded, a mechanism's may not
        table.add_column(name, justify="right" if name in _NUMBER_COLUMNS else "left", overflow="fold", no_wrap=whole)
    for name in ("time", "peak") if estimates else ():
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for case in plan.cases[:MAX_CASES]:
        values = flat(case)
        cells = [values.get(name, "") for name in columns]
        if estimates:
            cells += _estimate_cells(estimates.get(case.id))
        reason = refusals.get(case.id)
        table.add_row(*map(escape, [*cells, "" if reason is None else f"unsupported: {reason}"]))
    out.print(table)
    if estimates:
        _print_estimates(preview.estimates, out)
    if len(plan.cases) > MAX_CASES:
        out.print(f"... and {len(plan.cases) - MAX_CASES} more")
    for script in preview.scripts:
        out.print("sbatch would get:", script, sep="\n", markup=False, highlight=False, soft_wrap=True)


def _estimate_cells(estimate: "Estimate | None") -> list[str]:
    if estimate is None or estimate.seconds is None or estimate.bytes is None:
        return ["?", "?"]
    memory = f"{estimate.bytes / 2**20:,.1f} MiB"
    return [f"{estimate.seconds:.1f} s", memory if estimate.fits else f"{memory} WILL NOT FIT"]


def _print_estimates(estimates: "list[Estimate]", out: Console) -> None:
    """Print the sum of the times, what will not fit, and what the estimates rest on."""
    seconds = sum(estimate.seconds for estimate in estimates if estimate.seconds is not None)
    out.print(f"estimated time: {seconds / 60:.1f} min, without the laws", highlight=False)
    for estimate in estimates:
        if not estimate.fits:
            out.print(f"will not fit: {escape(estimate.case.title)}", highlight=False)
    reasons = {estimate.basis for estimate in estimates if estimate.seconds is None}
    for reason in sorted(reasons)[:MAX_REASONS]:
        out.print(f"not estimated: {escape(reason)}", highlight=False)
    bases = sorted({estimate.basis for estimate in estimates if estimate.seconds is not None})
    out.print(f"from {'; '.join(bases)}. On meta tensors fused kernels are written out.", highlight=False)


def print_run(run: "Run", out: Console) -> None:
    """Print how the cases that were asked for ended, and then their results, so that these are what stays in view."""
    from cab.report import Results, print_report
    from cab.store.table import environments

    for name in dict.fromkeys(case.mechanism for case in run.plan.cases):
        if "reference" not in registry.card("mechanism", name).methods:
            out.print(
                f"{escape(name)} has no reference: its output was not compared with a definition", highlight=False
            )
    counts = Counter(run.statuses().values())
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    out.print(f"cases: {summary}. Results: {run.store.folder}", highlight=False)
    print_report(Results(run.rows(), environments(run.store)), out)


def print_pairs(pairs: dict[str, Any], out: Console) -> None:
    """Print names and values as two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(escape(name), escape(str(value)))
    out.print(table)
