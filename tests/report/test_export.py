"""Files for other tools."""

from pathlib import Path

import pandas as pd
import pytest

from cab.errors import UsageError
from cab.report import write_csv, write_parquet
from tests.analysis.example_rows import case_rows, table_of


def test_tidy_files_keep_every_row_and_digit(tmp_path: Path) -> None:
    table = table_of(case_rows({"latency": (1 / 3, 0.3, 0.4), "flops": ("oom", 'a,b\n"c"')}))
    write_csv(table, tmp_path / "new" / "rows.csv")
    write_parquet(table, tmp_path / "rows.parquet")
    assert pd.read_csv(tmp_path / "new" / "rows.csv")["value"].tolist()[0] == 1 / 3
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), table)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["rows.parquet"]


def test_a_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write, name in ((write_csv, "a.csv"), (write_parquet, "a.parquet")):
        with pytest.raises(UsageError, match="cannot write .*give a path that can be written"):
            write(table_of(case_rows({"latency": 1.0})), tmp_path / "file" / name)
