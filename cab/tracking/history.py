"""The history of speed: an append-only table, one file a writer, of what each commit's cases took on each machine."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import inf, nextafter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cab.errors import UsageError
from cab.paths import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

COMPACT_FROM = 50  # files from which on they are written as one


@dataclass(frozen=True)
class Point:
    """What one case took at one commit on one machine."""

    commit: str
    time: float  # of the commit, in seconds since 1970: the order of a history
    case: str
    environment: str  # id; two environments are two histories
    metric: str
    value: float
    unit: str
    source: str  # what measured it
    recorded: float  # seconds since 1970


def append(folder: Path, points: Sequence[Point]) -> Path:
    """Write points into a new file of the history, whole; `UsageError` where the disk is full."""
    import pyarrow as pa

    if not points:
        raise UsageError("there is nothing to record")
    return _write(folder, pa.Table.from_pylist([asdict(point) for point in points], schema=_schema()))


def read(folder: Path, commit: str = "") -> list[Point]:
    """Return all points, or a commit's, ordered by the time of their commits.

    A point recorded again counts once, as it was last. `UsageError` names a file that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.compute as compute

    table = read_table(folder)
    if commit:
        table = table.filter(compute.equal(table["commit"].cast(pa.string()), commit))
    return [Point(**row) for row in table.to_pylist()]


def read_table(folder: Path) -> "pa.Table":
    """Return the same as `read` does, with a column for each field of a point: half a million take a second."""
    import numpy as np
    import pyarrow as pa

    tables = _tables(folder)
    if not tables:
        return _schema().empty_table()
    table = pa.concat_tables(tables).combine_chunks().unify_dictionaries()
    key = _combined(table, ("commit", "case", "environment", "metric", "source"))
    recorded, commit_time = (table[name].to_numpy() for name in ("recorded", "time"))
    order = np.lexsort((recorded, key))  # stable: of two that were recorded at once, the later file's counts
    last = order[np.append(key[order[1:]] != key[order[:-1]], True)]
    return table.take(last[np.lexsort((recorded[last], commit_time[last]))])


def recording_time(folder: Path) -> float:
    """Return the time of points that are recorded now: later than that of all others, also after a clock was set back.

    Of two points of one commit the later counts.
    """
    import pyarrow.compute as compute

    newest = compute.max(read_table(folder)["recorded"]).as_py()
    return time.time() if newest is None else max(time.time(), nextafter(newest, inf))


def compact(folder: Path) -> None:
    """Write many files as one. The new one is there before the old ones go, and equal points count once."""
    paths = sorted(folder.glob("*.parquet"))
    if len(paths) < COMPACT_FROM:
        return
    new = _write(folder, read_table(folder))
    for path in paths:
        if path != new:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Series:
    """The history of one case's metric in one environment, in the order of the commits: equally long columns."""

    case: str
    metric: str
    environment: str
    unit: str
    since: float  # when its first commit was recorded
    commits: list[str]
    values: list[float]
    sources: list[str]

    @property
    def key(self) -> tuple[str, str, str]:
        """Case, metric and environment: what tells series apart."""
        return self.case, self.metric, self.environment


def read_series(folder: Path) -> list[Series]:
    """Return the history series by series, sorted: a history of two machines is two histories."""
    import numpy as np

    table = read_table(folder)
    if not len(table):
        return []
    key = _combined(table, ("case", "metric", "environment"))
    order = np.argsort(key, kind="stable")  # within a series the order of the commits stays
    bounds = [0, *(np.flatnonzero(np.diff(key[order])) + 1), len(order)]
    table = table.take(order)
    columns: dict[str, list[Any]] = {name: _texts(table[name]) for name in ("commit", "source")}
    columns["value"] = table["value"].to_numpy().tolist()
    every = []
    for low, high in zip(bounds, bounds[1:], strict=False):
        case, metric, environment, unit, since = (
            table[name][int(low)].as_py() for name in ("case", "metric", "environment", "unit", "recorded")
        )
        commits, values, sources = (columns[name][low:high] for name in ("commit", "value", "source"))
        every.append(Series(case, metric, environment, unit, since, commits, values, sources))
    return sorted(every, key=lambda each: each.key)


def _texts(column: "pa.ChunkedArray") -> list[str]:
    """Return the texts of a column; each of a few thousand is made once, which `to_pylist` would do for every row."""
    whole = column.combine_chunks()
    texts: list[str] = whole.dictionary.to_pylist()
    return [texts[index] for index in whole.indices.to_numpy().tolist()]


def _combined(table: "pa.Table", names: Sequence[str]) -> Any:
    """Number the combinations of some columns' values."""
    import numpy as np

    key, sizes = np.zeros(len(table), dtype=np.int64), 1
    for name in names:
        column = table[name].combine_chunks()
        size = len(column.dictionary)
        if sizes * size >= 2**62:
            _, key = np.unique(key, return_inverse=True)
            sizes = len(table)
        key, sizes = key * size + column.indices.to_numpy(), sizes * size
    return key


def _tables(folder: Path) -> "list[pa.Table]":
    """Read all files; where one is gone they are listed again, because another machine has written them as one."""
    paths = sorted(folder.glob("*.parquet"))
    while True:
        try:
            return [_table(path) for path in paths]
        except FileNotFoundError as error:
            before, paths = paths, sorted(folder.glob("*.parquet"))
            if paths == before:  # a link that leads nowhere
                raise UsageError(f"{folder}: {error}; delete it, and record its commits again") from None


def _table(path: Path) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path, partitioning=None).select([field.name for field in fields(Point)])
        if any(column.null_count for column in table.columns):
            raise KeyError("some of its cells are empty")
        return table.cast(_schema()) if len(table) else _schema().empty_table()
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete it, and record its commits again") from None


def _write(folder: Path, table: "pa.Table") -> Path:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    path = folder / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.parquet"
    try:
        write_whole(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; the history is as it was") from None
    return path


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = {str: pa.dictionary(pa.int32(), pa.string()), float: pa.float64()}
    return pa.schema([(field.name, types[field.type]) for field in fields(Point)])  # type: ignore[index]
