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


def test_the_rows_of_scaling_are_kept_beside_those_of_others(tmp_path: Path) -> None:
    """Two processes lose no row of each other's; what failed is tried again, what multiplies nothing is not."""
    script = """if True:
        import argparse, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import scaling
        options = argparse.Namespace(lengths=[64, 128], batch=1)
        def row(quantity):
            return scaling.row_of("linear", "NS", "sequence", quantity, "exact", options)
        path = Path(sys.argv[2])
        one, other = scaling.Kept(path), scaling.Kept(path)
        one.add(scaling.answered(row("memory"), [1.2], [1.0, 2.0]))
        other.add(scaling.answered(row("flops"), [], [0.0, 0.0]))
        one.add(row("time") | {"failure": "ValueError: too short"})
        one.add(scaling.answered(row("bytes") | {"source": "older"}, [1.0], [1.0, 2.0]))
        kept = scaling.Kept(path)
        print([kept.has(row(quantity)) for quantity in ("memory", "flops", "time", "bytes")])
        print(len(kept.rows), len(kept.current()))
    """
    command = [sys.executable, "-c", script, str(FOLDER), str(tmp_path / "scaling.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["[True, True, False, False]", "4 3"], done.stderr
    command = [sys.executable, str(FOLDER / "scaling.py"), "table", "--kept", str(tmp_path / "scaling.csv")]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=300).stdout
    assert "3 rows, 1 more of an older source, 1 failed, 1 above their bound:" in printed
    assert "ValueError: too short" in printed and "none   0 0" in printed
    unreadable = ["counted", "linear", "--patterns", "NS", "--lengths", "0", "--kept", str(tmp_path / "scaling.csv")]
    failed = subprocess.run([*command[:2], *unreadable], capture_output=True, text=True, timeout=300)
    assert failed.returncode == 1 and "5 rows, 1 more of an older source, 3 failed" in failed.stdout, failed.stdout
