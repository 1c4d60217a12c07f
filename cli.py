"""The command line. Each command parses its arguments, calls `cab`, prints and sets the exit code.

What is slow to import is imported inside the command that needs it, so that `--help`, TAB and `list` answer at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from cab.errors import UsageError
from cab.terminal.exit_codes import with_exit_codes
from cab.terminal.results_commands import app as results_app
from cab.tracking.commands import app as track_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich panels would double the time of --help
    help="Which attention mechanism, for which pattern, at which length, and at what cost.",
)
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The tasks' data: what is there, and how to get it."
)
app.add_typer(data_app, name="data")
plot_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Pictures of what mechanisms do.")
app.add_typer(plot_app, name="plot")
app.add_typer(track_app, name="track")
app.add_typer(results_app, name="results")

Results = Annotated[Path, typer.Option(help="The store of results.", envvar="CAB_RESULTS")]
Data = Annotated[Path, typer.Option(help="The folder of the tasks' data.", envvar="CAB_DATA")]
Words = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE | DIR]...", help="Filters, stores and bundles.")]
Drawn = Annotated[str, typer.Option(help="What is drawn; the headline by default.")]
Pictures = Annotated[Path, typer.Option(help="Where the picture goes.")]
PictureFormat = Annotated[str, typer.Option("--format", help="png, svg or html.")]


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    from cab.terminal.completion import complete

    words = ctx.params.get("overrides") or ctx.params.get("what") or []
    return complete([words] if isinstance(words, str) else list(words), incomplete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE...", help="e.g. mechanism=agent,softmax task=speed", autocompletion=_complete),
]


@app.command(context_settings={"ignore_unknown_options": True})
@with_exit_codes
def run(
    overrides: Overrides = None,
    results: Results = Path("results"),
    data: Data = Path("data"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run, and stop.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="With --dry-run: time and memory that each case would take.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Measure again what is finished.")] = False,
    retry: Annotated[str, typer.Option(help="Statuses to try again, as in oom,timeout,error.")] = "",
) -> None:
    """Measure mechanisms on tasks. What is finished is not run again.

    KEY=a,b and KEY=range(1,5) sweep; mechanism.KEY=VALUE and task.KEY=VALUE set hyper-parameters,
    mechanism.NAME.KEY=VALUE those of one mechanism; grid=NAME adds the blocks of a named grid.
    """
    from cab.runner.run import execute, preview
    from cab.terminal.printing import console, print_preview, print_run
    from cab.terminal.progress import Display

    if estimate and not dry_run:
        raise UsageError("--estimate goes with --dry-run: it says what a run would take")
    if dry_run:
        print_preview(preview(overrides or [], results, data, estimate), console())
        return
    with Display(console(stderr=True)) as display:
        done = execute(overrides or [], display, results, data, force, [s for s in retry.split(",") if s])
    print_run(done, console())
    raise typer.Exit(done.exit_code)


@app.command()
@with_exit_codes
def report(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE | DIR]...", help="Filters, stores and bundles.")
    ] = None,
    results: Results = Path("results"),
    out: Annotated[
        Path | None, typer.Option(help="Where the page and the tables go; results/report by default.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every line of every board.")] = False,
    at_most: Annotated[
        list[str] | None, typer.Option("--max", help="A limit, as in peak_allocated=64MiB; may be repeated.")
    ] = None,
    sort: Annotated[str, typer.Option(help="The metric to rank by.")] = "",
    columns: Annotated[
        str, typer.Option(help="What to show, as in latency,longest_n=64MiB; with --value, the key of the columns.")
    ] = "",
    rows: Annotated[str, typer.Option(help="With --value: the key of the rows, as in pattern.")] = "",
    value: Annotated[str, typer.Option(help="A metric as a table of two keys: mechanism by n, unless told.")] = "",
    format_: Annotated[
        str, typer.Option("--format", help="table, md, tex, csv, html, parquet, json or badge.")
    ] = "table",
    compare: Annotated[tuple[str, str] | None, typer.Option(help="Two labels: A against B.")] = None,
    beside: Annotated[Path | None, typer.Option(help="Another store or bundle, whose lines are marked.")] = None,
    use_reference: Annotated[
        bool, typer.Option("--reference", help="Read the reference results that come with cab.")
    ] = False,
) -> None:
    """Print the leaderboards of a store; write the tidy table (CSV, Parquet) and one HTML page.

    KEY=VALUE narrows what is printed, as in pattern=CC seq_len=2048 mechanism=agent,softmax; with filters, limits or
    another order nothing is written.
    """
    from cab.terminal.printing import console
    from cab.terminal.reporting import Request, print_request, read, reference

    filters, folders = read(words or [], results)
    if use_reference:
        folders, out = reference(), out or Path("reference-report")
    names = [name for name in columns.split(",") if name]
    request = Request(filters, folders, at_most or [], sort, names, format_, full, compare, beside, rows, value)
    print_request(request, console(), out)


@app.command()
@with_exit_codes
def pick(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="pattern=CC seq_len=2048 [KEY=VALUE | DIR]...", help="What is needed.")
    ] = None,
    results: Results = Path("results"),
    at_most: Annotated[
        list[str] | None, typer.Option("--max", help="A limit, as in peak_allocated=64MiB; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, in the units of the rows.")] = False,
) -> None:
    """Say which mechanism to take: the lawful ones that fit, by score where one was measured, then by cost.

    Without results of your own the reference results answer. task=NAME chooses whose score counts. Exit code 1 where
    nothing fits.
    """
    from cab.terminal.printing import console
    from cab.terminal.reporting import print_choice

    if not print_choice(words or [], results, at_most or [], as_json, console()):
        raise typer.Exit(1)


@app.command(name="list")
@with_exit_codes
def list_(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[mechanisms | tasks | meters | grids | titles] [KEY=VALUE...] [WORD...]",
            help="All by default.",
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Of mechanisms or titles: the docs' page.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The cards as JSON.")] = False,
) -> None:
    """List mechanisms with what each can do, tasks, meters and grids, and the titles of the literature behind them.

    KEY=VALUE selects mechanisms: pattern=CS,CC streams=yes exact=no grouped=yes grade=native cost=linear backend=sdpa
    task=lra_text. Words search names, descriptions, papers and titles: cab list window.
    """
    if markdown:
        from cab.terminal import coverage, handbook

        pages = {"mechanisms": handbook.markdown, "titles": coverage.markdown}
        if what is None or len(what) != 1 or what[0] not in pages:
            raise UsageError("--markdown is of mechanisms or titles alone: cab list mechanisms --markdown")
        typer.echo(pages[what[0]](), nl=False)
        return
    from cab.terminal.listing import listed, print_list
    from cab.terminal.printing import console

    if as_json:
        import json

        typer.echo(json.dumps(listed(what or []), indent=2, default=str))
        return
    print_list(what or [], console())


@app.command()
@with_exit_codes
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="[KIND=NAME | NAME | KEY]",
            help="KIND: mechanism, task, meter, metric, grid or law; KEY: one of `cab run`, as in threads.",
            autocompletion=_complete,
        ),
    ],
) -> None:
    """Show a plug-in, a metric, a grid or a law, or what a key of `cab run` means and accepts."""
    from cab.terminal.printing import console

    if what.startswith("law="):
        from cab.commands.check import print_law

        print_law(what.removeprefix("law="), console())
        return
    from cab.terminal.listing import print_plugin

    print_plugin(what, console())


@app.command()
@with_exit_codes
def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="MECHANISM... [pattern=CS law=padding backend=sdpa]")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every mechanism.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Leave compilation out, half of the time.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the laws that hold, too.")] = False,
    data: Data = Path("data"),
) -> None:
    """Run the conformance laws on mechanisms: names, or ./file.py:Class. Exit code 1 where one is broken.

    pattern=CS,CC, law=padding,hidden and backend=sdpa narrow what is checked. Patterns are checked side by side.
    task=NAME, or task=./file.py:Class, checks a task instead.
    """
    from cab.commands.check import check_and_print, requested
    from cab.terminal.printing import console

    raise typer.Exit(check_and_print(requested(names or [], every, fast), console(), verbose, data))


@plot_app.command("mask")
@with_exit_codes
def plot_mask(
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("results/plots"),
) -> None:
    """Draw which keys each query reads, head by head, as PNG and HTML: mechanism=local pattern=CS seq_len=64."""
    from cab.commands.plot import plot_masks
    from cab.terminal.printing import console

    plot_masks(overrides or [], out, console())


@plot_app.command("curve")
@with_exit_codes
def plot_curve(
    words: Words = None,
    results: Results = Path("results"),
    metric: Drawn = "",
    absolute: Annotated[bool, typer.Option("--absolute", help="The cost itself, and no ratio.")] = False,
    out: Pictures = Path("results/plots"),
    format_: PictureFormat = "png",
) -> None:
    """Draw a cost by length, as its ratio to softmax, a panel for each pattern, with bands of 95 %."""
    from cab.terminal.reporting import draw

    typer.echo(f"written: {draw('curve', words or [], results, metric, out, format_, absolute=absolute)}")


def _plot_command(kind: str, about: str) -> None:
    """Add `cab plot KIND`: a picture of a store."""

    @plot_app.command(kind, help=about)
    @with_exit_codes
    def plot(
        words: Words = None,
        results: Results = Path("results"),
        metric: Drawn = "",
        out: Pictures = Path("results/plots"),
        format_: PictureFormat = "png",
    ) -> None:
        from cab.terminal.reporting import draw

        typer.echo(f"written: {draw(kind, words or [], results, metric, out, format_)}")


_plot_command("tradeoff", "Draw latency against a score or memory; those that nothing beats in both are filled.")
_plot_command("patterns", "Draw mechanism by task and pattern: costs as a ratio to softmax, scores above their floor.")
_plot_command("training", "Draw the validations of each training by step.")
_plot_command("quality", "Draw how well a cost was measured: the half-widths of its intervals by length.")
_plot_command("wins", "Draw from which length each mechanism beats softmax, with its interval.")
_plot_command("agreement", "Draw whether patterns, and tasks, put the mechanisms into the same order.")
_plot_command(
    "ranks", "Draw which mechanisms are told apart over tasks: mean ranks from ten tasks on, else differences."
)


@plot_app.command("compare")
@with_exit_codes
def plot_compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A label, as cab report --full prints it.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    words: Words = None,
    results: Results = Path("results"),
    metric: Annotated[str, typer.Option(help="What is compared; the headline by default.")] = "",
    out: Pictures = Path("results/plots"),
    format_: PictureFormat = "png",
) -> None:
    """Draw A against B: a dot for each case, the ratio (of scores the difference) with its interval."""
    from cab.terminal.reporting import draw_comparison

    path = draw_comparison(first, second, words or [], results, metric, out, format_)
    typer.echo(f"written: {path}")


@app.command()
@with_exit_codes
def export(
    folder: Annotated[Path, typer.Argument(help="A new folder for the bundle.")],
    results: Results = Path("results"),
) -> None:
    """Write the results as a bundle that can be cited: Parquet, environments, version and checksums.

    Imported bundles are left out, because each is one of its own.
    """
    from cab import __version__
    from cab.store import bundle

    bundle.write(results, folder, __version__)
    for imported in bundle.imported(results):
        typer.echo(f"left out: {imported}, an imported bundle; cite it by itself", err=True)
    typer.echo(f"written: {folder}")


@app.command(name="import")
@with_exit_codes
def import_(
    folder: Annotated[Path, typer.Argument(help="A bundle, as cab export writes it.")],
    results: Results = Path("results"),
) -> None:
    """Verify a bundle and put it beside the results: cab report and cab pick read it with them."""
    from cab.store import bundle

    typer.echo(f"imported: {bundle.import_into(results, folder)}")


@data_app.command("list")
@with_exit_codes
def data_list(data: Data = Path("data")) -> None:
    """Print which data each task would use now."""
    from cab.commands.data import print_sources
    from cab.terminal.printing import console

    print_sources(data, console())


@data_app.command("get", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@with_exit_codes
def data_get(
    ctx: typer.Context,
    task: Annotated[str, typer.Argument(help="The task whose data to get.")],
    folder: Annotated[Path, typer.Option(help="Where to put them.", envvar="CAB_DATA")] = Path("data"),
) -> None:
    """Download or generate a task's data: verified, and moved into place whole.

    Some tasks take more: lra_pathfinder and lra_pathx --images 20000 --size 64 --difficulty easy;
    lra_listops --layout release; lra_image --source fashion-mnist.
    """
    from cab.commands.data import fetch_data
    from cab.terminal.printing import console

    fetch_data(task, folder, console(), ctx.args)


@app.command()
@with_exit_codes
def doctor(
    results: Results = Path("results"),
    data: Data = Path("data"),
    peak: Annotated[
        bool, typer.Option("--peak", help="Measure the peak rates of a device, for the report's utilisation.")
    ] = False,
    device: Annotated[str, typer.Option(help="With --peak: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="With --peak: of the CPU; all cores by default.")] = None,
) -> None:
    """Print what this machine is, and what would disturb or prevent a measurement."""
    from cab.terminal.doctor import measure_peaks, print_diagnosis
    from cab.terminal.printing import console

    if peak:
        measure_peaks(results, device, threads, console())
    else:
        print_diagnosis(results, data, console())


def _print_version(requested: bool) -> None:
    if requested:
        from cab import __version__

        typer.echo(f"cab {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Measure attention mechanisms: accuracy, FLOPs, latency and memory, in four patterns."""


if __name__ == "__main__":
    app()
