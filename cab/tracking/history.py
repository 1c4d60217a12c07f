"""The history of speed: an append-only table, one file a writer, of what each commit's cases took on each machine."""

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
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
    import pyarrow.parquet as parquet

    if not points:
        raise UsageError("there is nothing to record")
    table = pa.Table.from_pylist([asdict(point) for point in points], schema=_schema())
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    path = folder / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}.parquet"
    try:
        write_whole(path, sink.getvalue().to_pybytes())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; the history is as it was") from None
    return path


def read(folder: Path) -> list[Point]:
    """Return all points, ordered by the time of their commits. A point recorded again counts once, as it was last.

    `UsageError` names a file that cannot be read.
    """
    points: dict[tuple[str, ...], Point] = {}
    for path in sorted(folder.glob("*.parquet")):
        for point in _points(path):
            key = (point.commit, point.case, point.environment, point.metric, point.source)
            if key not in points or points[key].recorded <= point.recorded:
                points[key] = point
    return sorted(points.values(), key=lambda point: (point.time, point.recorded))


def compact(folder: Path) -> None:
    """Write many files as one. The new one is there before the old ones go, and equal points count once."""
    paths = sorted(folder.glob("*.parquet"))
    if len(paths) < COMPACT_FROM:
        return
    points = read(folder)
    new = append(folder, points)
    for path in paths:
        if path != new:
            path.unlink(missing_ok=True)


def series(points: Iterable[Point]) -> dict[tuple[str, str, str], list[Point]]:
    """Return (case, metric, environment) -> points in order: a history of two machines is two histories."""
    by_key: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        by_key.setdefault((point.case, point.metric, point.environment), []).append(point)
    return by_key


def _points(path: Path) -> list[Point]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        names = {field.name for field in fields(Point)}
        return [Point(**{name: value for name, value in row.items() if name in names}) for row in rows]
    except (OSError, pa.ArrowInvalid, TypeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete it, and record its commits again") from None


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64()}
    return pa.schema([(field.name, types[field.type]) for field in fields(Point)])  # type: ignore[index]
