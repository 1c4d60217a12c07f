"""A bundle is read as it was written, or refused."""

from pathlib import Path

import pandas as pd
import pytest

from cab.errors import UsageError
from cab.store import bundle
from tests.analysis.example_rows import case_rows, table_of


def source(folder: Path, seconds: float = 1.0, time: str = "1") -> Path:
    """Make a folder of results without checksums."""
    folder.mkdir()
    table_of(case_rows({"latency": seconds}, time=time)).to_parquet(folder / bundle.ROWS)
    (folder / bundle.ENVIRONMENTS).write_text('{"environments": {"one": {"host": "h", "threads": 2}}}')
    return folder


def test_a_bundle_holds_the_rows_and_environments(tmp_path: Path) -> None:
    bundle.write(source(tmp_path / "old"), tmp_path / "new", "1.0")
    rows, environment_table = bundle.read(tmp_path / "new")
    pd.testing.assert_frame_equal(rows, bundle.read(tmp_path / "old")[0])
    assert environment_table.to_dict("records") == [{"environment_id": "one", "host": "h", "threads": 2}]


def test_a_file_that_is_another_one_is_refused(tmp_path: Path) -> None:
    bundle.write(source(tmp_path / "old"), tmp_path / "new", "1.0")
    table_of(case_rows({"latency": 0.001})).to_parquet(tmp_path / "new" / bundle.ROWS)
    with pytest.raises(UsageError, match="checksum"):
        bundle.read(tmp_path / "new")


def test_a_folder_in_use_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        bundle.write(source(tmp_path / "old"), tmp_path / "old", "1.0")


def test_a_file_without_the_columns_is_of_another_schema(tmp_path: Path) -> None:
    pd.DataFrame({"value": [1.0]}).to_parquet(tmp_path / bundle.ROWS)
    with pytest.raises(UsageError, match="another schema"):
        bundle.read(tmp_path)


def test_of_two_answers_to_one_case_the_newer_counts(tmp_path: Path) -> None:
    older, newer = source(tmp_path / "a", 1.0, time="1"), source(tmp_path / "b", 2.0, time="2")
    for folders in ([older, newer], [newer, older]):
        rows, environment_table = bundle.merge(folders)
        assert list(rows["value"]) == [2.0] and len(environment_table) == 1


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a store"):
        bundle.read(tmp_path)


def test_an_imported_bundle_is_read_with_the_results(tmp_path: Path) -> None:
    own = source(tmp_path / "own")
    other = tmp_path / "other"
    other.mkdir()
    table_of(case_rows({"latency": 3.0}, n=64, m=64)).to_parquet(other / bundle.ROWS)
    bundle.write(other, tmp_path / "bundle", "1.0")
    where = bundle.import_into(own, tmp_path / "bundle")
    assert where == bundle.import_into(own, tmp_path / "bundle")  # a second time changes nothing
    rows, _ = bundle.merge([own])
    assert sorted(rows["value"]) == [1.0, 3.0]


def test_an_imported_bundle_is_read_where_nothing_was_measured(tmp_path: Path) -> None:
    bundle.write(source(tmp_path / "from"), tmp_path / "bundle", "0.1.0")
    assert not bundle.has_results(tmp_path / "empty")
    bundle.import_into(tmp_path / "empty", tmp_path / "bundle")
    assert bundle.has_results(tmp_path / "empty")
    assert len(bundle.merge([tmp_path / "empty"])[0]) == len(bundle.read(tmp_path / "bundle")[0])


def test_only_a_whole_bundle_is_imported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no bundle"):
        bundle.import_into(tmp_path, source(tmp_path / "old"))
    bundle.write(tmp_path / "old", tmp_path / "new", "1.0")
    (tmp_path / "new" / bundle.ENVIRONMENTS).unlink()
    with pytest.raises(UsageError, match="not whole"):
        bundle.import_into(tmp_path, tmp_path / "new")
    assert not (tmp_path / bundle.IMPORTED).exists()
