"""How long the report takes on a large store: 90 mechanisms, 4 patterns, 6 lengths, 2 passes, 6 batches, 4 metrics.

    .venv/bin/pytest -n 0 benchmarks/report.py

103,680 rows. Prints the times of the leaderboards, the terminal and the page, and the page's size; the page is written
to a temporary folder.
"""

import io
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

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32)
MOST_BYTES = 2 * 2**20  # of the page
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
    return pd.DataFrame(table, columns=COLUMNS)


def no_environments() -> pd.DataFrame:
    """Return the table of environments of a store that keeps none."""
    return pd.DataFrame(columns=["environment_id"])


def _row(case: dict[str, Any], metric: str, value: float) -> dict[str, Any]:
    result = {"metric": metric, "unit": METRICS[metric], "higher_is_better": False, "value": value, "time": "1"}
    return {**case, **result, "ci_low": value * 0.99, "ci_high": value * 1.01, "processes": 5}


def test_leaderboards(benchmark: Any, rows: pd.DataFrame) -> None:
    """Group, mark and rank."""
    assert len(benchmark(leaderboard, rows)) == 4 * len(LENGTHS) * 2 * len(BATCHES)


def test_terminal(benchmark: Any, rows: pd.DataFrame) -> None:
    """Print the summary."""
    console = Console(file=io.StringIO(), width=120)
    benchmark(lambda: print_report(Results(rows, no_environments()), console))


def test_page(benchmark: Any, rows: pd.DataFrame, tmp_path: Path) -> None:
    """Write the whole page."""
    path = tmp_path / "page.html"
    benchmark(lambda: write_page(Results(rows, no_environments()), path))
    assert path.stat().st_size <= MOST_BYTES
