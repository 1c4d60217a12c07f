"""The scripts of benchmarks/ run: a contract that changes breaks them, and nobody sees it until a figure is needed.

Each in its shortest form, which measures nothing worth reading. Left out are those that train or generate for minutes
(`demo_accuracy.py`, `first_run.py`, `generators.py`) and those that need packages of another environment (`optimum.py`,
`throughput.py`).
"""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SHORT = {
    "aa.py": ["--quick"],
    "causal_linear.py": [],
    "coverage.py": ["--quick"],
    "crash.py": ["--events", "1", "--cases", "4"],
    "drift.py": ["--seconds", "0.5"],
    "grid160.py": ["--quick"],
    "isolation.py": [],
    "mechanisms.py": ["softmax", "--lengths", "64", "--seconds", "0"],
    "memory_against_resident.py": ["--quick"],
    "meter_cost.py": [],
    "report.py": [],
    "scale.py": ["--cases", "200"],
    "scaling.py": ["counted", "linear", "--lengths", "64", "128", "256", "--kept", "scaling.csv"],
    "startup.py": [],
    "timers.py": ["--rounds", "1"],
    "track.py": ["--pairs", "1", "--cases", "mechanism=linear", "pattern=NS", "seq_len=64"],
}


@pytest.mark.long
@pytest.mark.parametrize("script", SHORT)
def test_a_benchmark_runs(script: str, elsewhere: Path) -> None:
    """It prints what it measured and ends without an exception; an aim missed in so few runs says nothing."""
    how = ["-m", "pytest", "-n", "0", "-p", "no:cacheprovider"] if script == "report.py" else []
    command = [sys.executable, *how, str(FOLDER / script), *SHORT[script]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or script == "timers.py", done.stdout + done.stderr
    assert done.stdout
