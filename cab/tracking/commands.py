"""`cab track`: the commands. Each imports what it needs when it runs, so that `--help` answers at once."""

import functools
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cab.terminal.exit_codes import with_exit_codes

_MEASURING = ("compare", "calibrate", "bisect_", "record")


def _with_exit_codes(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command as `cab` does, but never leave with 1 where something went wrong: 1 is a confirmed regression."""

    @with_exit_codes
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from cab.errors import Unsupported, UsageError
        from cab.tracking.sides import NoData

        try:
            return command(*args, **kwargs)
        except (typer.Exit, UsageError, Unsupported, BrokenPipeError):
            raise
        except NoData as error:  # of a side without which nothing can begin
            raise UsageError(str(error)) from None
        except OSError as error:  # a full disk, or a place that may not be written
            where = f"{error.filename}: " if error.filename else ""
            kept = "what was there is as it was"
            if command.__name__ in _MEASURING:
                kept = "what is measured is kept, and the same command goes on from there"
            raise UsageError(f"{where}{error.strerror or error}; {kept}") from None
        except Exception:
            traceback.print_exc()
            raise typer.Exit(2) from None

    return wrapped


app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Is one revision, backend or mechanism slower than another?"
)

Results = Annotated[Path, typer.Option(help="The store of results.", envvar="CAB_RESULTS")]
Case = Annotated[
    list[str] | None,
    typer.Option("--case", help="An override of cab run, as mechanism=linear; several times. Default: grid=track."),
]
Minimum = Annotated[float, typer.Option(help="The smallest change that counts, as a share of the base's time.")]
Floor = Annotated[float, typer.Option(help="The smallest change that counts, in seconds of one call.")]
SameEnvironment = Annotated[
    bool, typer.Option("--same-environment", help="Run revisions in this Python, whatever their lock asks for.")
]


@app.command()
@_with_exit_codes
def compare(
    base: Annotated[
        str | None,
        typer.Argument(
            help="A git revision, a folder with cab/, or a Python. REVISION... is the commit in common with it; by"
            " default that with the default branch."
        ),
    ] = None,
    head: Annotated[str | None, typer.Argument(help="The same; by default this checkout as it is.")] = None,
    against: Annotated[
        str | None, typer.Option(help="In place of BASE: backend=NAME or mechanism=NAME, in HEAD's own sources.")
    ] = None,
    case: Case = None,
    settle: Annotated[bool, typer.Option("--settle", help="Measure all 18 pairs of every case.")] = False,
    minimum: Minimum = 0.03,
    floor: Floor = 5e-6,
    instructions: Annotated[
        bool, typer.Option("--instructions", help="Count instructions by valgrind too: a minute a case.")
    ] = False,
    same_environment: SameEnvironment = False,
    json: Annotated[Path | None, typer.Option(help="Write everything that was found here.")] = None,
    comment: Annotated[Path | None, typer.Option(help="Write the comment on a change here, in Markdown.")] = None,
    results: Results = Path("results"),
) -> None:
    """Measure BASE and HEAD in lock-step, and say which cases are slower.

    Exit codes: 0 fine, 1 confirmed regression, 2 wrong request, 3 nothing measured, 4 unproven.
    """
    from cab.paths import write_whole
    from cab.terminal.printing import console
    from cab.tracking.calibrating import calibration_file
    from cab.tracking.calibration import load, refuse_thresholds_below
    from cab.tracking.cases import device_of, tracked_cases, with_instructions
    from cab.tracking.compare import Settings, forget
    from cab.tracking.compare import compare as run
    from cab.tracking.rendering import as_comment, as_json, print_comparison
    from cab.tracking.requested import refuse_unknown_change, requested_sides
    from cab.tracking.verdicts import Minimum

    settings = Settings(Minimum(minimum, floor), settle)
    cases = tracked_cases(case or [])
    if instructions:
        cases = [with_instructions(each) for each in cases]
    calibrated = load(calibration_file(results, device_of(cases)))
    refuse_thresholds_below(calibrated, [each.name for each in cases], settings.minimum)
    sides = requested_sides(base, head, against, same_environment)
    if against is not None:
        refuse_unknown_change(against, cases)
    done = run(*sides, cases, settings, results, progress=lambda line: typer.echo(line, err=True))
    print_comparison(done, console())
    if json:
        write_whole(json, as_json(done))
    if comment:
        write_whole(comment, as_comment(done, ["cab", *sys.argv[1:]]))
    forget(*sides, cases, results)  # who asks again after an answer asks for a second measurement
    raise typer.Exit(done.exit_code)


@app.command()
@_with_exit_codes
def calibrate(
    case: Case = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs of 18 pairs of each case.")] = 2,
    minimum: Minimum = 0.03,
    floor: Floor = 5e-6,
    results: Results = Path("results"),
) -> None:
    """Measure the same code on both sides: noise, false alarms, and the smallest slowdown that is found.

    It is kept with the environment, and `compare` then refuses a --minimum below it.
    """
    from cab.terminal.printing import console
    from cab.tracking.calibrating import calibrate_and_print
    from cab.tracking.cases import tracked_cases
    from cab.tracking.verdicts import Minimum

    cases, least = tracked_cases(case or []), Minimum(minimum, floor)
    calibrate_and_print(cases, runs, least, results, console(), lambda line: typer.echo(line, err=True))


@app.command("bisect")
@_with_exit_codes
def bisect_(
    good: Annotated[str, typer.Argument(help="A revision that is fast.")],
    bad: Annotated[str, typer.Argument(help="A later revision that is slow.")],
    case: Annotated[list[str], typer.Argument(help="Overrides of cab run that give one case.")],
    minimum: Minimum = 0.03,
    floor: Floor = 5e-6,
    by_time: Annotated[bool, typer.Option("--by-time", help="Measure also where counts would decide.")] = False,
    same_environment: SameEnvironment = False,
    results: Results = Path("results"),
) -> None:
    """Find the commit that made a case slower. The ends are reproduced first, unclear steps are repeated.

    Where counts (FLOPs, operations) tell the ends apart, they decide, with one pair a step.

    Where a commit cannot be told, a range is answered, and the exit code is 4.
    """
    from cab.terminal.printing import console
    from cab.tracking.searching import search_and_print
    from cab.tracking.verdicts import Minimum

    least = Minimum(minimum, floor)
    found = search_and_print(
        (good, bad),
        case,
        least,
        same_environment,
        results,
        console(),
        lambda line: typer.echo(line, err=True),
        by_time=by_time,
    )
    raise typer.Exit(0 if len(found.commits) == 1 else 4)


History = Annotated[Path, typer.Option("--history", help="The folder of the history.", envvar="CAB_TRACK_HISTORY")]


@app.command("import")
@_with_exit_codes
def import_(
    files: Annotated[list[Path], typer.Argument(help="JSON of pytest-benchmark, asv or google/benchmark.")],
    folder: History = Path("results/track/history"),
) -> None:
    """Take other tools' results into the history."""
    from cab.errors import UsageError
    from cab.terminal.printing import counted
    from cab.tracking.findings import refresh
    from cab.tracking.foreign import read_results
    from cab.tracking.history import append, compact, recording_time

    read = [read_results(file) for file in files]
    points, left_out = [point for found, _ in read for point in found], sum(others for _, others in read)
    rest = f"; {counted(left_out, 'value')} left out, of no time or of a benchmark that failed" if left_out else ""
    if not points:
        raise UsageError(
            f"no time was measured in {', '.join(map(str, files))}{rest}. Accepted: times above 0, the medians of "
            "pytest-benchmark, asv's benchmarks that begin with time, and google/benchmark's real_time"
        )
    now = recording_time(folder)
    append(folder, [replace(point, recorded=max(point.recorded, now)) for point in points])
    compact(folder)
    refresh(folder, {point.environment for point in points})
    typer.echo(f"{counted(len(points), 'point')} from {counted(len(files), 'file')}, in {folder}{rest}")


@app.command()
@_with_exit_codes
def export(
    commit: Annotated[str, typer.Argument(help="Whose points, or the beginning of its name.")],
    out: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    otava: Annotated[
        bool, typer.Option("--otava", help="Write all commits up to this one, as Apache Otava's JSON.")
    ] = False,
    environment: Annotated[str | None, typer.Option(help="Of which machine, where there are several.")] = None,
    folder: History = Path("results/track/history"),
) -> None:
    """Write a commit's points as pytest-benchmark's JSON, or the history up to it as Apache Otava's."""
    from cab.errors import UsageError, unknown
    from cab.paths import write_whole
    from cab.tracking.foreign import as_otava, as_pytest_benchmark
    from cab.tracking.history import read

    points = read(folder)
    commits = {each.commit for each in points}
    named = [each for each in commits if commit and each.startswith(commit)]
    if commit not in commits and len(named) > 1:
        raise UsageError(f"'{commit}' is the beginning of {len(named)} commits of the history: give more of its name")
    if not named:
        raise unknown("commit of the history", commit, commits)
    commit = commit if commit in commits else named[0]
    environments = {each.environment for each in points if each.commit == commit}
    if environment is None and len(environments) > 1:
        ids = " or ".join(sorted(environments))
        raise UsageError(f"{commit} was measured on several machines: give --environment {ids}")
    if environment is not None and environment not in environments:
        raise unknown("environment of this commit", environment, environments)
    (environment,) = environments if environment is None else {environment}
    chosen = [each for each in points if each.commit == commit and each.environment == environment]
    if otava:
        last = max(each.time for each in chosen)
        series = [each for each in points if each.time <= last and each.environment == environment]
        text, missing = as_otava(series)
        write_whole(out, text)
        for name in missing:
            typer.echo(f"left out, because a commit lacks it: {name}")
        typer.echo(f"{len({each.commit for each in series})} commits, in {out}")
        return
    write_whole(out, as_pytest_benchmark(chosen))
    left_out = sum(each.unit != "s" for each in chosen)
    rest = f"; {left_out} that are no times are left out" if left_out else ""
    typer.echo(f"{len(chosen) - left_out} points, in {out}{rest}")


@app.command()
@_with_exit_codes
def record(
    revision: Annotated[
        str, typer.Argument(help="The commit; edits that are not committed are not measured.")
    ] = "HEAD",
    case: Case = None,
    pairs: Annotated[int, typer.Option(min=1, help="Process pairs of each case.")] = 3,
    same_environment: SameEnvironment = False,
    folder: History = Path("results/track/history"),
    results: Results = Path("results"),
) -> None:
    """Measure a commit into the history, and look for changes."""
    from cab.tracking.cases import tracked_cases
    from cab.tracking.findings import findings
    from cab.tracking.recording import record as measure_and_keep
    from cab.tracking.rendering import one_line
    from cab.tracking.sides import repository_of

    commit, points, failures = measure_and_keep(
        revision,
        repository_of(Path.cwd()),
        tracked_cases(case or []),
        pairs,
        same_environment,
        folder,
        results,
        lambda line: typer.echo(line, err=True),
    )
    for name, reason in failures.items():
        typer.echo(one_line(f"no data: {name}: {reason}"))
    typer.echo(f"{len(points)} points of {commit[:12]}, in {folder}")
    recorded = {(point.case, point.environment) for point in points}
    for each in findings(folder):
        if each.open and (each.case, each.environment) in recorded:
            typer.echo(one_line(f"{each.case}, {each.metric}: {each.described}"))


@app.command()
@_with_exit_codes
def history(
    case: Annotated[str, typer.Option(help="Only cases whose name holds this.")] = "",
    last: Annotated[int, typer.Option(min=0, help="How many of the newest points of each case.")] = 5,
    folder: History = Path("results/track/history"),
) -> None:
    """Print the newest points of each case on each machine, the newest last, and all changes."""
    from cab.terminal.printing import counted
    from cab.tracking.findings import findings
    from cab.tracking.history import read_series
    from cab.tracking.rendering import one_line

    changes: dict[tuple[str, str, str], list[str]] = {}
    for each in findings(folder):
        changes.setdefault((each.case, each.metric, each.environment), []).append(f"  {each.described}")
    lines, all_series = [], read_series(folder)
    for series in all_series:
        if case in series.case:
            count = len(series.values)
            points = counted(count, "point")
            lines.append(f"{series.case}, {series.metric}, environment {series.environment}: {points}")
            lines += [
                f"  {series.commits[i][:12]}  {series.values[i]:.6g} {series.unit}  {series.sources[i]}"
                for i in range(max(0, count - last), count)
            ]
            lines += changes.get(series.key, [])
    if lines:
        typer.echo("\n".join(map(one_line, lines)))
    elif all_series:
        typer.echo(f"{folder} has no case whose name holds '{case}'")
    else:
        typer.echo(f"there are no points in {folder}: cab track record, or cab track import")


@app.command()
@_with_exit_codes
def plot(
    out: Annotated[Path, typer.Argument(help="The page.")] = Path("results/track/history.html"),
    folder: History = Path("results/track/history"),
) -> None:
    """Write one offline page: the history of each case, with changes, commits and environments."""
    from cab.errors import UsageError
    from cab.tracking.findings import environments, findings
    from cab.tracking.history import read_series
    from cab.tracking.page import write_page

    if out.is_dir():
        raise UsageError(f"{out} is a folder: give the page's file, as {out / 'history.html'}")
    series = read_series(folder)
    if not series:
        raise UsageError(f"there are no points in {folder}: cab track record, or cab track import")
    write_page(out, series, findings(folder), environments(folder))
    typer.echo(str(out))


@app.command()
@_with_exit_codes
def accept(
    commit: Annotated[str, typer.Argument(help="The commit of a change, or the beginning of its name.")],
    reason: Annotated[str, typer.Argument(help="Why this change is right.")],
    case: Annotated[str, typer.Option(help="Only cases whose name holds this.")] = "",
    folder: History = Path("results/track/history"),
) -> None:
    """Acknowledge the changes at a commit, with a reason: they are no longer reported as open."""
    from cab.tracking.findings import accept as acknowledge
    from cab.tracking.rendering import one_line

    for each in acknowledge(folder, commit, reason, case):
        typer.echo(one_line(f"{each.case}, {each.metric}, environment {each.environment}: {each.described}"))
