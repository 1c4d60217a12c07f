"""Whatever a job's bundle or its last file holds, the error names the file, and no bundle is half read.

An `@example` once ended in a traceback.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cab.planning.plan import plan
from cab.runner.bundles import Bundle, Done, read_bundle, read_done, write_bundle, write_done
from cab.runner.supervisor import Options
from tests.runner.example_runs import FAST

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=5), of, max_size=3)
)
BYTES = st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode())


def written(folder: Path) -> dict[str, Any]:
    measurements = plan([*FAST, "mechanism=none", "seq_len=16"]).measurements
    write_bundle(folder, Bundle(1, "run", measurements, "/results", "/work", Options(Path("/data"))))
    data: dict[str, Any] = json.loads((folder / "1.bundle").read_bytes())
    return data


@settings(max_examples=60, deadline=None)
@given(BYTES)
@example(b"[" * 100_000)
def test_a_bundle_of_any_bytes_is_an_error_that_names_it(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "1.bundle").write_bytes(content)
        with pytest.raises(ValueError, match="1.bundle cannot be read"):
            read_bundle(Path(folder), 1)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_bundle_with_any_other_value_is_read_or_named(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        content = written(Path(folder))
        content[data.draw(st.sampled_from(sorted(content)))] = data.draw(VALUES)
        (Path(folder) / "1.bundle").write_text(json.dumps(content))
        try:
            read_bundle(Path(folder), 1)
        except ValueError as error:
            assert "1.bundle cannot be read" in str(error)


@settings(max_examples=60, deadline=None)
@given(BYTES)
@example(b"[" * 100_000)
def test_a_last_file_of_any_bytes_says_nothing(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "1.done").write_bytes(content)
        assert read_done(Path(folder), 1) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_cut_last_file_says_nothing(data: st.DataObject) -> None:
    with TemporaryDirectory() as folder:
        write_done(Path(folder), 1, Done("n1", "no torch"))
        whole = (Path(folder) / "1.done").read_bytes()
        (Path(folder) / "1.done").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        assert read_done(Path(folder), 1) is None
