"""How long the report takes on a large store: 90 mechanisms, 4 patterns, 6 lengths, 2 passes, 6 batches, 4 metrics.

    .venv/bin/pytest -n 0 benchmarks/report.py

103,680 rows. Prints the times of the leaderboards, the terminal and the page, and the page's size; the page is written
to a temporary folder, and opened and filtered in a headless Chromium, where there is one. Ten times as many rows are
summarised from Parquet in a process of its own.
"""

import gc
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
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
MOST_MILLISECONDS = {"first table": 500.0, "filter": 50.0}  # until the frame is drawn; medians
REPEATS = 15
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
# Notes when the frame that shows the first table is drawn, in milliseconds since the page was opened.
WATCH = """
new MutationObserver((changes, observer) => {
  if (!document.documentElement.dataset.ready) return;
  observer.disconnect();
  requestAnimationFrame(() => setTimeout(() => { document.documentElement.dataset.drawn = performance.now(); }));
}).observe(document, { attributes: true, subtree: true });
"""
# Clicks, and returns the milliseconds until script, style and layout are done, and until the frame is drawn: a message
# that is sent before a frame arrives after it.
CLICK = """
(selector) => new Promise((resolve) => requestAnimationFrame(() => setTimeout(() => {
  const button = document.querySelector(selector), { port1, port2 } = new MessageChannel(), start = performance.now();
  button.click();
  document.body.offsetHeight;
  const layout = performance.now() - start;
  port1.onmessage = () => resolve([layout, performance.now() - start]);
  requestAnimationFrame(() => port2.postMessage(0));
}, 100)))
"""
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
                        name = f"m{mechanism:02}" if mechanism else "softmax"
                        case = {"mechanism": name, "pattern": pattern, "n": n, "m": n, "pass": pass_}
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


def test_page_in_the_browser(rows: pd.DataFrame, tmp_path: Path) -> None:
    """Open the page and filter it."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium")
    path = tmp_path / "page.html"
    write_page(Results(rows, no_environments()), path)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened, laid_out, drawn = [], [], []
        for _ in range(REPEATS):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            page.add_init_script(WATCH)
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-drawn]")
            opened.append(float(page.evaluate("document.documentElement.dataset.drawn")))
            page.close()
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        for i in range(REPEATS):
            pattern = ("CC", "NS", "CS", "NC")[i % 4]
            layout, frame = page.evaluate(CLICK, f"[data-filter=pattern][data-value={pattern}]")
            laid_out.append(layout)
            drawn.append(frame)
        browser.close()
    print(f"first table {median(opened):.0f} ms; a filter {median(laid_out):.0f} ms, drawn {median(drawn):.0f} ms")
    assert median(opened) <= MOST_MILLISECONDS["first table"] and median(drawn) <= MOST_MILLISECONDS["filter"]


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
