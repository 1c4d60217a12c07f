"""What a run and its preview look like in the terminal."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cab.plugins import registry

if TYPE_CHECKING:
    from cab.runner.cost_estimates import Estimate
    from cab.runner.run import Preview, Run

SHOWN = 40  # cases of a preview


class _Piped(Console):
    """Lets a pipe that nobody reads any more end the command as such, and not as a failure."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """Return the terminal; where there is none, lines of 120 columns."""
    terminal = _Piped(stderr=stderr)
    return terminal if terminal.is_terminal else _Piped(stderr=stderr, width=120)


def print_preview(preview: "Preview", out: Console) -> None:
    """Print what a run would do: how many cases there are, what is done already, and the cases."""
    plan = preview.plan
    cases = plan.cases
    processes = sum(item.processes for item in plan.measurements)
    meters = ", ".join(dict.fromkeys(item.meter for item in plan.measurements))
    out.print(f"cases: {len(cases)}; measurements: {len(plan.measurements)} ({meters}); child processes: {processes}")
    out.print(f"measurements done already: {preview.done}; unsupported: {preview.refused}")
    estimates = {found.case.id: found for found in preview.estimates}
    reasons = {item.case.id: item.refusal[1] for item in plan.measurements if item.refusal}
    table = Table(box=None, pad_edge=False)
    for name in ("mechanism", "params", "pattern", "task", "n", "m", "batch", "level", "pass", "backend", "seed", ""):
        right = name in ("n", "m", "batch", "seed")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    if estimates:
        for name in ("time", "peak"):
            table.add_column(name, justify="right")
    for case in cases[:SHOWN]:
        params = " ".join(f"{k}={v}" for k, v in case.params.items())
        cells = [case.mechanism, params, case.pattern, case.task, case.n, case.m, case.batch, case.level, case.pass_]
        cells += [case.backend, case.seed, f"unsupported: {reasons[case.id]}" if case.id in reasons else ""]
        if estimates:
            cells += _expected(estimates.get(case.id))
        table.add_row(*(escape(str(cell)) for cell in cells))
    out.print(table)
    if estimates:
        _print_sum(preview.estimates, out)
    if len(cases) > SHOWN:
        out.print(f"... and {len(cases) - SHOWN} more")


def _expected(found: "Estimate | None") -> tuple[str, str]:
    if found is None or found.seconds is None or found.bytes is None:
        return "?", "?"
    return f"{found.seconds:.1f} s", f"{found.bytes / 2**20:,.1f} MiB" + ("" if found.fits else " WILL NOT FIT")


def _print_sum(estimates: "list[Estimate]", out: Console) -> None:
    known = [found.seconds for found in estimates if found.seconds is not None]
    out.print(f"estimated time: {sum(known) / 60:.1f} min, without the laws", highlight=False)
    for found in estimates:
        if not found.fits:
            out.print(f"will not fit: {escape(found.case.title)}", highlight=False)
    reasons = {found.basis for found in estimates if found.seconds is None}
    for reason in sorted(reasons)[:5]:
        out.print(f"not estimated: {escape(reason)}", highlight=False)
    bases = sorted({found.basis for found in estimates if found.seconds is not None})
    out.print(f"from {'; '.join(bases)}. On meta tensors fused kernels are written out.", highlight=False)


def print_run(run: "Run", out: Console) -> None:
    """Print the results of the cases that were asked for, and how they ended."""
    from cab.report import print_report
    from cab.store.table import environments

    print_report(run.rows(), environments(run.store), out)
    for name in dict.fromkeys(case.mechanism for case in run.plan.cases):
        if "reference" not in registry.card("mechanism", name).methods:
            out.print(f"{escape(name)} has no reference: what it computes was held to no definition", highlight=False)
    counts: dict[str, int] = {}
    for status in run.statuses().values():
        counts[status] = counts.get(status, 0) + 1
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    out.print(f"cases: {summary}. Results: {run.store.folder}", highlight=False)


def lines(pairs: dict[str, Any], out: Console) -> None:
    """Print names and values as two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(escape(name), escape(str(value)))
    out.print(table)
