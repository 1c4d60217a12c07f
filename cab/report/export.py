"""The rows as files for other tools: one line for each case and metric."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from cab.errors import UsageError
from cab.paths import write_whole

if TYPE_CHECKING:
    from pandas import DataFrame


_FORMULA = ("=", "+", "@", "\t", "\r")  # a spreadsheet computes a cell that begins with one of these


def write_csv(rows: "DataFrame", path: Path) -> None:
    """Write the rows as CSV in full precision. A missing value is an empty cell."""
    write_file(path, csv_of(rows))


def csv_of(table: "DataFrame") -> str:
    """Return a table as CSV; a text that a spreadsheet would compute gets an apostrophe in front, as on the page."""
    from pandas.api.types import is_numeric_dtype

    inert = {}
    for name in table:
        if is_numeric_dtype(table[name]):  # of truth values it is true, too
            continue
        texts = table[name].astype("string")
        computed = texts.str.startswith(_FORMULA).fillna(False).astype(bool)
        if computed.any():
            inert[str(name)] = texts.mask(computed, "'" + texts)
    return str(table.assign(**inert).to_csv(index=False))


def write_parquet(rows: "DataFrame", path: Path) -> None:
    """Write the rows as Parquet."""
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False)
    write_file(path, buffer.getvalue())


def write_file(path: Path, content: str | bytes) -> None:
    """Write the whole file or nothing; `UsageError` says why it cannot be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; give a path that can be written") from error
