"""`cab report`: reads stores and bundles, writes the page and the files, and prints what was asked for."""

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cab.errors import UsageError, unknown
from cab.paths import beside
from cab.report import (
    BEYOND_LIMITS,
    EMPTY,
    FORMATS,
    PICTURES,
    Evidence,
    Results,
    compare,
    derived_columns,
    filters_of,
    formatted,
    limits_of,
    metric_units,
    pick_json,
    pick_mechanism,
    pivot,
    print_aggregates,
    print_comparison,
    print_efficiency,
    print_pick,
    print_pivot,
    print_report,
    print_utilisation,
    readable,
    selected,
    utilisation_table,
    write_csv,
    write_page,
    write_parquet,
    write_picture,
    written_pivot,
)
from cab.store import bundle, machine_peaks
from cab.store.store import Store
from cab.store.table import outdated, process_medians
from cab.terminal.laws import laws_of_rows
from cab.terminal.printing import counted, print_damaged

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Request:
    """What `cab report` was asked for."""

    filters: dict[str, list[str]]
    folders: list[Path]  # stores and bundles
    limits: list[str] = field(default_factory=list)
    sort: str = ""
    columns: list[str] = field(default_factory=list)  # with a `value` the key of a table's columns
    format: str = "table"
    full: bool = False
    compare: tuple[str, str] | None = None
    beside: Path | None = None
    rows: str = ""  # with a `value`: the key of a table's rows
    value: str = ""  # a metric: a table of it by two keys

    @property
    def narrowed(self) -> bool:
        """Say whether less than everything, or another order, was asked for: then no files are written."""
        asked = self.filters or self.limits or self.sort or self.compare or self.columns or self.beside
        return bool(asked or self.value or self.rows or self.format != "table")


def read(words: Sequence[str], results: Path) -> tuple[dict[str, list[str]], list[Path]]:
    """Tell filters (KEY=VALUE) from folders, of which `results` is the only one where none is named."""
    folders = [Path(word) for word in words if "=" not in word]
    return filters_of([word for word in words if "=" in word]), folders or [results]


def reference() -> list[Path]:
    """Return the bundles of reference results that come with this project."""
    return sorted(path.parent for path in (beside("results") / "reference").glob(f"*/{bundle.ROWS}"))


def tables_of(request: Request, stores: Sequence[Store] | None = None) -> Results:
    """Return the tables of a request: its folders merged, narrowed by its filters and limits."""
    stores = stores or [Store(folder) for folder in request.folders]
    rows, environments = bundle.merge(stores)
    if request.beside is not None:
        stores = [*stores, Store(request.beside)]
        rows, environments = _beside(rows, environments, stores[-1])
    print_damaged(stores)
    rows = unfiltered = readable(rows)
    if rows.empty and request.narrowed:
        raise UsageError(EMPTY)
    rows = selected(rows, request.filters)
    units = metric_units(rows)
    if request.sort and request.sort not in units:
        raise unknown("metric", request.sort, units)
    limits = tuple(limits_of(request.limits, units))
    return Results(rows, environments, limits, request.sort, unfiltered if request.filters else None)


def _beside(rows: "pd.DataFrame", environments: "pd.DataFrame", other: Store) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Add the rows of another store, each marked by the name of its folder behind its mechanism's name."""
    import pandas as pd

    other_rows, other_environments = bundle.read(other)
    other_rows = other_rows.assign(mechanism=other_rows["mechanism"] + f" [{other.folder.name}]")
    other_rows = other_rows[other_rows["grade"] != "floor"]
    merged = pd.concat([environments, other_environments], ignore_index=True).drop_duplicates("environment_id")
    return pd.concat([rows, other_rows], ignore_index=True), merged.reset_index(drop=True)


def print_request(request: Request, out: Console, folder: Path | None) -> None:
    """Print what was asked for. What is asked of a whole store is also written to files, into `folder`."""
    if request.format not in FORMATS:
        raise unknown("format", request.format, FORMATS)
    _refuse_what_compare_ignores(request)
    collects = gc.isenabled()
    gc.disable()  # no row is garbage, and looking takes a fifth of the time: 1.8 s become 1.45 on 1,056 cases
    try:
        _print_request(request, out, folder)
    finally:
        if collects:
            gc.enable()


def _print_request(request: Request, out: Console, folder: Path | None) -> None:
    stores = [Store(folder) for folder in request.folders]
    tables = tables_of(request, stores)
    if request.value or request.rows:
        _print_pivot(request, tables, out)
    elif request.compare is not None:
        print_comparison(tables, *request.compare, out)
    elif request.format != "table":
        if not tables.boards and not tables.rows.empty:
            raise UsageError(BEYOND_LIMITS)
        derived = derived_columns(tables, request.columns)
        _write_to_stdout(formatted(tables.boards, request.format, request.columns, derived), request.format)
    elif request.narrowed:
        print_report(tables, out, request.full, request.columns)
    else:
        medians: dict[tuple[str, str, str], list[float]] = {}
        for store in stores:
            if (store.folder / "cases").is_dir():  # a bundle has none
                medians |= process_medians(store)
        evidence = Evidence(medians, laws_of_rows(tables.rows))
        _write_and_print(request, tables, out, folder or _beside_results(request.folders[0]), evidence)
        for store in stores:
            _print_outdated(store)


def _print_pivot(request: Request, tables: Results, out: Console) -> None:
    if not request.value:
        raise UsageError(f"--rows {request.rows}: of which metric? Give --value, as in --value latency")
    if len(request.columns) > 1:
        raise UsageError(f"--columns {','.join(request.columns)}: with --value it is one key, as in --columns n")
    column_key = request.columns[0] if request.columns else "n"
    table = pivot(tables.boards, request.rows or "mechanism", column_key, request.value)
    if request.format == "table":
        print_pivot(table, out, request.full)
    else:
        _write_to_stdout(written_pivot(table, request.format), request.format)


def _refuse_what_compare_ignores(request: Request) -> None:
    ignored = {
        "--format": request.format != "table",
        "--value": request.value,
        "--rows": request.rows,
        "--columns": request.columns,
        "--full": request.full,
    }
    if request.compare is not None and (names := [name for name, given in ignored.items() if given]):
        raise UsageError(f"--compare prints one table of its own: leave out {', '.join(names)}")


def _write_to_stdout(content: bytes, form: str) -> None:
    if form == "parquet" and sys.stdout.isatty():
        raise UsageError("Parquet is no text: redirect the output to a file, as in > boards.parquet")
    sys.stdout.buffer.write(content)


def print_choice(words: Sequence[str], results: Path, limits: Sequence[str], as_json: bool, out: Console) -> bool:
    """Print which mechanisms fit, from the folders among `words`, from `results`, or else from the reference.

    Return whether there is one.
    """
    filters, folders = read(words, results)
    if folders == [results] and not bundle.has_results(results):
        folders = reference()
        print(f"there are no results in {results}: these are the reference's, of the machine named", file=sys.stderr)
    stores = [Store(folder) for folder in folders]
    rows, environments = bundle.merge(stores)
    print_damaged(stores)
    rows = readable(rows)
    if rows.empty:
        raise UsageError(EMPTY)
    allowed = limits_of(limits, metric_units(rows))
    choice = pick_mechanism(rows, environments, filters, allowed)
    if as_json:
        print(pick_json(choice, allowed, filters["pattern"][0]))
    else:
        print_pick(choice, allowed, filters["pattern"][0], out)
    return bool(choice.fitting)


def draw(kind: str, words: Sequence[str], results: Path, metric: str, out: Path, format_: str, **options: Any) -> Path:
    """Draw one of PICTURES from the folders among `words` or from `results`, and return the file."""
    filters, folders = read(words, results)
    figure = PICTURES[kind](tables_of(Request(filters, folders)), metric, **options)
    path = out / f"{kind}.{format_}"
    write_picture(figure, path)
    return path


def draw_comparison(
    first: str, second: str, words: Sequence[str], results: Path, metric: str, out: Path, format_: str
) -> Path:
    """Draw one mechanism against another, from the folders among `words` or from `results`; return the file."""
    filters, folders = read(words, results)
    path = out / f"compare.{format_}"
    write_picture(compare(tables_of(Request(filters, folders)), first, second, metric), path)
    return path


def _write_and_print(request: Request, tables: Results, out: Console, folder: Path, evidence: Evidence) -> None:
    peaks = machine_peaks.load(request.folders[0])
    files = {
        "results.csv": tables.rows,
        "efficiency.csv": tables.efficiency_lengths,
        "growth.csv": tables.growths,
        "utilisation.csv": utilisation_table(tables.rows, peaks),
    }
    for name, table in files.items():
        write_csv(table, folder / name)
    write_parquet(tables.rows, folder / "results.parquet")
    write_page(tables, folder / "index.html", evidence)
    # the files are written first, because a closed pipe (`cab report | head`) ends the printing
    if request.full:
        print_aggregates(tables, out)
        print_efficiency(files["efficiency.csv"], files["growth.csv"], out)
        print_utilisation(files["utilisation.csv"], out)
    written = Text(f"written into {folder}: {', '.join(['index.html', *files, 'results.parquet'])}")
    print_report(tables, out, request.full, below=len(out.render_lines(written)))
    out.print(written)


def _beside_results(folder: Path) -> Path:
    """Return where the page goes: into a store, and of a bundle into a folder here, as others may only read it."""
    return folder / "report" if (folder / "cases").is_dir() else Path(f"{folder.resolve().name}-report")


def _print_outdated(store: Store) -> None:
    """Say on stderr which results are not shown because they are of an older method."""
    if not (store.folder / "cases").is_dir():
        return
    for meter, count in outdated(store).items():
        print(
            f"not shown: {meter} of {counted(count, 'case')}, by an older method; cab run measures it again",
            file=sys.stderr,
        )
