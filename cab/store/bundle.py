"""Bundles: results as files that can be cited and read by other tools.

A bundle is a folder with `results.parquet` (the tidy table), `environments.json` and `bundle.json` (version, commits,
when, and the SHA-256 of the other files).
"""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.environment import available_memory
from cab.errors import UsageError
from cab.paths import write_whole
from cab.store.entry import SCHEMA
from cab.store.store import Store, now
from cab.store.table import COLUMNS, LATER_COLUMNS, environments, table

if TYPE_CHECKING:
    import pandas as pd

ROWS, ENVIRONMENTS, MANIFEST = "results.parquet", "environments.json", "bundle.json"
IMPORTED = "bundles"  # the folder of a store that holds imported bundles
FORMAT = 1
WIDEST = 8  # bytes of a number, of a text's offset, and of a reference to a text
COPIES = 3  # of a table at a time: as it was read, with whole texts, and as a frame


def read(source: Path | Store) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return the rows and environments of a store or of a bundle, whose checksums are verified.

    A `Store` lists the damaged files that it sets aside.

    `UsageError` where there are no results, or where a file is not what its checksum says.
    """
    folder = source.folder if isinstance(source, Store) else source
    if (folder / "cases").is_dir():
        store = source if isinstance(source, Store) else Store(folder)
        return table(store), environments(store)
    if (folder / ROWS).is_file():
        return _read_bundle(folder)
    raise UsageError(f"there are no results in {folder.absolute()}: neither a store (cases/) nor a bundle ({ROWS})")


def _read_bundle(folder: Path) -> "tuple[pd.DataFrame, pd.DataFrame]":
    import pandas as pd

    if (folder / MANIFEST).is_file():
        _verify(folder)
    try:
        rows = _read_rows(folder / ROWS)
    except UsageError:
        raise
    except Exception as error:  # whatever Arrow raises at a damaged file
        raise UsageError(f"{folder / ROWS} cannot be read: {error}") from error
    rows = rows.assign(**{name: float("nan") for name in LATER_COLUMNS if name not in rows})
    missing = [name for name in COLUMNS if name not in rows]
    if missing:
        raise UsageError(f"{folder / ROWS} is of another schema: it has no {', '.join(missing)}")
    others = sorted({*rows["schema"].dropna().astype(int)} - {SCHEMA})
    if others:
        raise UsageError(
            f"{folder / ROWS} has rows of schema {', '.join(map(str, others))}, and this version of cab reads schema "
            f"{SCHEMA}: use the version that wrote them"
        )
    facts = _environments(folder)
    return rows[COLUMNS], pd.DataFrame(facts or None, columns=None if facts else ["environment_id"])


def _read_rows(path: Path) -> "pd.DataFrame":
    """Read a table of Parquet, unless it would take more than half of the free memory.

    A few kilobytes may hold any number of rows, and of rows with one long text. So the number of rows is looked at
    before they are read, and texts stay dictionaries until it is known how much they take without. `UsageError` also
    for a column that holds neither numbers nor texts, for nothing bounds what it takes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    for field in schema:
        is_number = pa.types.is_primitive(field.type) or pa.types.is_null(field.type)
        if not (field.name in texts or is_number or pa.types.is_dictionary(field.type)):
            raise UsageError(f"{path} is of another schema: its column {field.name} holds {field.type}")
    file = pq.ParquetFile(path, read_dictionary=texts)
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    cells = file.metadata.num_rows * len(schema)
    _refuse_too_large(path, sum(each.total_byte_size for each in groups) + COPIES * WIDEST * cells)
    table = file.read()
    size = 0
    for column in table.columns:
        for chunk in column.chunks:
            if isinstance(chunk, pa.DictionaryArray):
                size += pc.sum(pc.take(pc.binary_length(chunk.dictionary), chunk.indices)).as_py() or 0
    _refuse_too_large(path, COPIES * (size + WIDEST * cells))
    rows: pd.DataFrame = table.cast(schema).to_pandas()
    return rows


def _refuse_too_large(path: Path, size: int) -> None:
    most = available_memory() // 2
    if size > most:
        raise UsageError(f"{path} would take {size:,} bytes of memory, and half of what is free is {most:,}")


def _environments(folder: Path) -> list[dict[str, Any]]:
    path = folder / ENVIRONMENTS
    if not path.is_file():
        return []
    try:
        by_id = json.loads(path.read_bytes())["environments"]
        return [{"environment_id": environment_id, **facts} for environment_id, facts in by_id.items()]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _verify(folder: Path) -> None:
    """Raise `UsageError` for the first file that is not what the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version, checksums = int(manifest["format"]), dict(manifest["sha256"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError(f"{folder / MANIFEST} is no manifest of a bundle: {error}") from error
    if version > FORMAT:
        raise UsageError(f"{folder} is a bundle of format {version}; this version reads up to {FORMAT}: upgrade cab")
    for name in (ROWS, ENVIRONMENTS):
        path = folder / name
        if not path.is_file():
            raise UsageError(f"{folder} is not whole: there is no {name}")
        if sha256(path.read_bytes()).hexdigest() != checksums.get(name):
            raise UsageError(f"{path} is not the file that was exported: its checksum is another; get the bundle again")


def write(source: Path, folder: Path, version: str) -> None:
    """Write the results of a store or bundle as a bundle into `folder`, which must not hold another one's files."""
    from io import BytesIO

    rows, environment_table = read(source)
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; give a new folder")
    buffer = BytesIO()
    rows.to_parquet(buffer, index=False)
    facts = environment_table[environment_table["environment_id"].isin(rows["environment_id"])]
    by_id = {
        str(row.pop("environment_id")): {name: value for name, value in row.items() if value == value}
        for row in facts.astype(object).to_dict("records")
    }
    files = {ROWS: buffer.getvalue(), ENVIRONMENTS: json.dumps({"environments": by_id}, indent=1, default=str).encode()}
    manifest = {
        "format": FORMAT,
        "cab": version,
        "exported": now(),
        "rows": len(rows),
        "commits": sorted({str(commit) for commit in rows["commit"].dropna() if commit}),
        "sha256": {name: sha256(content).hexdigest() for name, content in files.items()},
    }
    for name, content in files.items():
        write_whole(folder / name, content)
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1).encode())  # last: a bundle with one is whole


def imported(source: Path | Store) -> list[Path]:
    """Return the bundles that were imported into a store."""
    folder = source.folder if isinstance(source, Store) else source
    return sorted(path.parent for path in (folder / IMPORTED).glob(f"*/{ROWS}"))


def import_into(folder: Path, bundle_folder: Path) -> Path:
    """Verify a bundle, copy it into the results folder, and return where it lies. It is read with the results there.

    It stays a bundle of its own, so that the results of this machine remain apart from those of others.
    """
    if not (bundle_folder / MANIFEST).is_file():
        raise UsageError(f"{bundle_folder} is no bundle: there is no {MANIFEST}; make one with cab export")
    read(bundle_folder)
    manifest = (bundle_folder / MANIFEST).read_bytes()
    target = folder / IMPORTED / sha256(manifest).hexdigest()[:12]
    for name in (ROWS, ENVIRONMENTS, MANIFEST):
        write_whole(target / name, (bundle_folder / name).read_bytes())
    return target


def has_results(folder: Path) -> bool:
    """Say whether a folder is a store or a bundle, or holds an imported one."""
    return (folder / "cases").is_dir() or (folder / ROWS).is_file() or bool(imported(folder))


def _with_imported(source: Path | Store) -> list[Path | Store]:
    """Return a store with the bundles that were imported into it; these alone, where nothing was measured there."""
    folder, bundles = source.folder if isinstance(source, Store) else source, imported(source)
    if bundles and not (folder / "cases").is_dir() and not (folder / ROWS).is_file():
        return [*bundles]
    return [source, *bundles]


def merge(sources: Sequence[Path | Store]) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return the rows and environments of several stores and bundles.

    Of two rows that answer the same case and metric on one environment the newer counts.
    """
    import pandas as pd

    parts = [read(each) for source in sources for each in _with_imported(source)]
    if len(parts) == 1:
        return parts[0]
    rows = pd.concat([rows for rows, _ in parts], ignore_index=True).sort_values("time", kind="stable")
    identity = ["case_id", "mechanism", "metric", "step", "environment_id"]
    rows = rows.drop_duplicates(identity, keep="last").reset_index(drop=True)
    tables = [environments for _, environments in parts if len(environments)]
    merged = pd.concat(tables, ignore_index=True) if tables else parts[0][1]
    return rows, merged.drop_duplicates("environment_id", keep="last").reset_index(drop=True)
