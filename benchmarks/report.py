"""How long the report takes on a large store: 90 mechanisms, 4 patterns, 6 lengths, 2 passes, 6 batches, 4 metrics.

    .venv/bin/pytest -n 0 benchmarks/report.py

103,680 rows. Prints the times of the leaderboards, the terminal and the page, and the page's size; the page is written
to a temporary folder. Ten times as many rows are summarised from Parquet in a process of its own.
"""

import gc
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from cab.analysis.ranking import leaderboard
from cab.analysis.results import Results
from cab.contracts.case import digest
from cab.report import print_report, write_page
from cab.store.table import COLUMNS
from tests.analysis.example_rows import DTYPES

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32)
MOST_BYTES = 2 * 2**20  # of the page
MOST_SECONDS = {"terminal": 2.0, "page": 6.0, "million rows": 30.0}  # of the CPU
MOST_MEBIBYTES = 2048  # of a million rows
SUMMARISE = """
import gc, io, os, resource, sys
gc.disable()  # as the command does
import pandas as pd
from rich.console import Console
from cab.analysis.results import Results
from cab.report import print_report
rows = pd.read_parquet(sys.argv[1])
print_report(Results(rows, pd.DataFrame(columns=["environment_id"])), Console(file=io.StringIO(), width=120))
print(os.times().user + os.times().system, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
METRICS = {"latency": "seconds", "flops": "FLOP", "peak_allocated": "bytes", "parameters": "parameters"}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Return the tidy table of a made-up store."""
    table = []
    for mechanism in range(90):
        for pattern in ("NS", "CS", "NC", "CC"):
            for n in LENGTHS:
                for pass_ in ("forward", "forward_backward"):
                    for batch in BATCHES:
                        case = {"mechanism": f"m{mechanism:02}", "pattern": pattern, "n": n, "m": n, "pass": pass_}
                        case |= {"params": "{}", "settings": "{}", "task": "speed", "level": "attend", "scale": "quick"}
                        case |= {"batch": batch, "heads": 4, "dim": 64, "dtype": "float32", "device": "cpu", "seed": 0}
                        case |= {"backend": "eager", "case_id": digest(case), "environment_id": "e", "status": "ok"}
                        case |= {"grade": "native", "schema": 1, "reason": "", "commit": ""}
                        table += [_row(case, metric, n * (mechanism + 1.0)) for metric in METRICS]
    return pd.DataFrame(table, columns=COLUMNS).astype({name: DTYPES.get(name, "string") for name in COLUMNS})


def no_environments() -> pd.DataFrame:
    """Return the table of environments of a store that keeps none."""
    return pd.DataFrame(columns=["environment_id"])


def _row(case: dict[str, Any], metric: str, value: float) -> dict[str, Any]:
    result = {"metric": metric, "unit": METRICS[metric], "higher_is_better": False, "value": value, "time": "1"}
    return {**case, **result, "ci_low": value * 0.99, "ci_high": value * 1.01, "processes": 5}


def test_leaderboards(benchmark: Any, rows: pd.DataFrame) -> None:
    """Group, mark and rank."""
    assert len(benchmark(leaderboard, rows)) == 4 * len(LENGTHS) * 2 * len(BATCHES)


def cpu_seconds(benchmark: Any, call: Any) -> float:
    """Return the CPU seconds of one call, without the search for garbage, as the command runs."""
    gc.disable()
    before = os.times()
    benchmark.pedantic(call, rounds=1)
    after = os.times()
    gc.enable()
    seconds = after.user + after.system - before.user - before.system
    benchmark.extra_info["CPU seconds"] = seconds
    return seconds


def test_terminal(benchmark: Any, rows: pd.DataFrame) -> None:
    """Print the summary."""
    console = Console(file=io.StringIO(), width=120)
    seconds = cpu_seconds(benchmark, lambda: print_report(Results(rows, no_environments()), console))
    assert seconds <= MOST_SECONDS["terminal"]


def test_page(benchmark: Any, rows: pd.DataFrame, tmp_path: Path) -> None:
    """Write the whole page."""
    path = tmp_path / "page.html"
    seconds = cpu_seconds(benchmark, lambda: write_page(Results(rows, no_environments()), path))
    assert seconds <= MOST_SECONDS["page"] and path.stat().st_size <= MOST_BYTES


def test_million_rows(rows: pd.DataFrame, tmp_path: Path) -> None:
    """Summarise ten times as many rows from Parquet."""
    path = tmp_path / "rows.parquet"
    copies = [
        rows.assign(mechanism=rows["mechanism"] + f"_{i}", case_id=rows["case_id"].str[:14] + f"{i:02}")
        for i in range(10)
    ]
    pd.concat(copies, ignore_index=True).to_parquet(path)
    del copies
    done = subprocess.run([sys.executable, "-c", SUMMARISE, str(path)], check=True, capture_output=True, text=True)
    seconds, mebibytes = map(float, done.stdout.split())
    print(f"{10 * len(rows):,} rows: {seconds:.1f} s of CPU, {mebibytes:,.0f} MiB")
    assert seconds <= MOST_SECONDS["million rows"] and mebibytes <= MOST_MEBIBYTES
