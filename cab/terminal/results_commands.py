"""`cab results`: the commands. Each imports what it needs when it runs, so that `--help` answers at once."""

from pathlib import Path
from typing import Annotated

import typer

from cab.terminal.exit_codes import with_exit_codes

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What a store holds: list, show, remove, merge, compare."
)

Results = Annotated[Path, typer.Option(help="The store of results.", envvar="CAB_RESULTS")]
Filters = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]... [CASE]...", help="Filters, and ids of cases.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON, in the units of the rows.")]


@app.command("list")
@with_exit_codes
def list_(
    words: Filters = None,
    results: Results = Path("results"),
    history: Annotated[bool, typer.Option("--history", help="With what newer measurements have replaced.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the cases of a store: id, task, mechanism, pattern, lengths, status and when.

    KEY=VALUE narrows as in cab report; status=oom,error and meter=latency, too. CASE is an id or its beginning.
    """
    from cab.terminal.printing import console
    from cab.terminal.results_list import print_cases

    print_cases(words or [], results, history, as_json, console())


@app.command()
@with_exit_codes
def show(
    case: Annotated[str, typer.Argument(metavar="CASE", help="A case's id, or its beginning.")],
    results: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Show all that a store has on a case: what was asked, each measurement, and the command that repeats it."""
    from cab.terminal.printing import console
    from cab.terminal.results_show import print_case

    print_case(case, results, as_json, console())


@app.command()
@with_exit_codes
def remove(
    words: Filters = None,
    results: Results = Path("results"),
    every: Annotated[bool, typer.Option("--all", help="Everything; without filters nothing is removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove measurements, with those that newer ones have replaced. Says what goes, and asks first.

    KEY=VALUE and CASE select as in cab results list --history; with status= or meter= the rest of a case stays.
    """
    from cab.terminal.printing import console
    from cab.terminal.results_remove import ask_and_remove

    ask_and_remove(words or [], results, every, yes, console())


@app.command()
@with_exit_codes
def merge(
    target: Annotated[Path, typer.Argument(metavar="A", help="The store that takes them.")],
    sources: Annotated[list[Path], typer.Argument(metavar="B...", help="Stores that stay as they are.")],
) -> None:
    """Put into the store A what the stores B hold: all of it, or nothing where it is interrupted.

    Where two files answer one question, the one that was asked for last stays, and is named.
    """
    from cab.terminal.printing import console
    from cab.terminal.results_merge import merge_and_print

    merge_and_print(target, sources, console())


@app.command()
@with_exit_codes
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A store or a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Filters.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two stores case by case: the ratio A / B of each metric with its interval, and what only one has."""
    from cab.terminal.printing import console
    from cab.terminal.results_diff import print_difference

    print_difference(first, second, words or [], full, as_json, console())
