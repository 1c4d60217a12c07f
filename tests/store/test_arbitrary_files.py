"""Whatever a file of a store or a bundle holds, it is read, set aside, or refused by name.

An `@example` is a file that once ended in a traceback.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.errors import UsageError
from cab.store import bundle
from cab.store.store import Store
from cab.store.table import COLUMNS, environments, table
from tests.analysis.example_rows import case_rows, table_of
from tests.store.example_entries import entry, write

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of, max_size=3)
)
SOUND = entry()


def paths(value: Any, start: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [start, *(path for key, each in inner for path in paths(each, (*start, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a JSON value with another value at `path`."""
    if not path:
        return new
    copy = dict(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def read_everything(folder: Path) -> tuple[Store, pd.DataFrame]:
    """Read a store as a report does."""
    store = Store(folder)
    rows = table(store)
    environments(store)
    list(store.entries())
    return store, rows


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(paths(SOUND)[1:]), VALUES)
@example(("case", "params"), float("inf"))
@example(("case", "params"), {"chunk": float("nan")})
def test_an_entry_with_any_value_anywhere_costs_itself_alone(path: tuple[Any, ...], value: Any) -> None:
    with TemporaryDirectory() as folder:
        store = Store(Path(folder)).open_for_writing()
        sound = entry(metric="flops", key="k2")
        write(store, sound)
        file = store.path(f"{SOUND['case_id']}-{SOUND['key']}")
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(replaced(SOUND, path, value)))
        try:
            store, rows = read_everything(Path(folder))
        except UsageError as error:  # of another schema
            assert path == ("schema",) and file.name in str(error)
            return
        assert "flops" in set(rows["metric"])
        assert file.exists() != bool(store.damaged), "a file is read or set aside"


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=60) | st.integers(0, len(json.dumps(SOUND)) - 1).map(lambda n: json.dumps(SOUND).encode()[:n])
)
@example(b"[" * 100_000)
@example(b"")
def test_a_file_of_any_bytes_is_set_aside(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        store = Store(Path(folder)).open_for_writing()
        write(store, entry(metric="flops", key="k2"))
        file = store.path(f"{SOUND['case_id']}-{SOUND['key']}")
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        store, rows = read_everything(Path(folder))
        assert set(rows["metric"]) == {"flops"} and not file.exists()
        assert [path.read_bytes() for path in store.damaged] == [content]


def made_bundle(folder: Path) -> Path:
    """Make a bundle of one row."""
    (folder / "old").mkdir()
    table_of(case_rows({"latency": 1.0}, time="1")).to_parquet(folder / "old" / bundle.ROWS)
    bundle.write(folder / "old", folder / "new", "1.0")
    return folder / "new"


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([bundle.ROWS, bundle.ENVIRONMENTS, bundle.MANIFEST]),
    st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()),
    st.booleans(),
)
@example(bundle.ENVIRONMENTS, b"[]", False)
@example(bundle.ENVIRONMENTS, b"{}", False)
@example(bundle.ENVIRONMENTS, b'{"environments": {"one": 0}}', False)
@example(bundle.ENVIRONMENTS, b"\x80", False)
@example(bundle.MANIFEST, b'{"format": Infinity, "sha256": {}}', True)
@example(bundle.MANIFEST, b"[" * 100_000, True)
def test_a_bundle_with_any_other_file_is_refused_by_its_name(name: str, content: bytes, verified: bool) -> None:
    with TemporaryDirectory() as parent:
        folder = made_bundle(Path(parent))
        (folder / name).write_bytes(content)
        if not verified:
            (folder / bundle.MANIFEST).unlink()
        try:
            rows, _ = bundle.read(folder)
        except UsageError as error:
            assert str(folder) in str(error)
        else:
            assert list(rows.columns) == COLUMNS and not verified


@pytest.mark.parametrize("reason", ["", "x" * 1000])
def test_no_more_memory_is_taken_than_what_is_held_against_the_free(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = table_of(case_rows({"latency": 1.0}, time="1")).assign(reason=reason)
    pd.concat([row] * 20_000, ignore_index=True).to_parquet(tmp_path / bundle.ROWS)
    bounds, taken = [], []

    def note(path: Path, size: int) -> None:
        bounds.append(size)
        taken.append(pa.total_allocated_bytes())

    monkeypatch.setattr(bundle, "_refuse_too_large", note)
    rows, _ = bundle.read(tmp_path)
    before_reading, afterwards = bounds
    read = taken[1] - taken[0]
    assert read > 1_000_000 and before_reading >= read
    assert afterwards >= read + len(rows) * len(reason) + rows.memory_usage().sum()


def test_a_column_that_nothing_bounds_is_refused_by_its_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"reason": [[1, 2]]}), tmp_path / bundle.ROWS)
    with pytest.raises(UsageError, match="another schema: its column reason holds list<"):
        bundle.read(tmp_path)


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_a_bundle_of_few_bytes_that_would_fill_the_memory_is_refused(as_dictionary: bool, tmp_path: Path) -> None:
    """A text of a million characters in a million rows: some kilobytes as Parquet, and a terabyte as a table."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 2**16, pa.int32()), pa.array(["x" * 2**20]))
    part, path = pa.table({"reason": text}), tmp_path / bundle.ROWS
    with pq.ParquetWriter(path, part.schema, compression="zstd", store_schema=as_dictionary) as writer:
        for _ in range(16):
            writer.write_table(part)
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="bytes of memory"):
        bundle.read(tmp_path)
