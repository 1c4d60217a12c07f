"""The report works where torch is not imported."""

import subprocess
import sys
from pathlib import Path

from tests.analysis.example_rows import case_rows, environments, table_of


def test_reporting_imports_no_torch(tmp_path: Path) -> None:
    table_of(case_rows({"latency": 1.0})).to_parquet(tmp_path / "rows.parquet")
    environments().to_parquet(tmp_path / "environments.parquet")
    code = f"""
import sys
import pandas as pd
from pathlib import Path
from rich.console import Console
from cab.report import Results, print_report, write_csv, write_page, write_parquet
folder = Path({str(tmp_path)!r})
rows = pd.read_parquet(folder / "rows.parquet")
environments = pd.read_parquet(folder / "environments.parquet")
results = Results(rows, environments)
print_report(results, Console())
write_page(results, folder / "page.html")
write_csv(rows, folder / "rows.csv")
write_parquet(rows, folder / "again.parquet")
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, capture_output=True)
