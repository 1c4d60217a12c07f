"""How long a user waits: `cab --help`, `cab list`, TAB, and the plan of 10,000 cases, with ours and with 90 mechanisms.

    python benchmarks/startup.py

Prints the median wall time of whole processes, which run on copies of the checkout in a temporary folder.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 5
MECHANISMS = 90


def copy_with_mechanisms(folder: Path, count: int) -> Path:
    """Copy the checkout and fill it up with copies of `linear` under other names."""
    for name in ("cab", "mechanisms", "tasks", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "cli.py", folder)
    own = len(list((folder / "mechanisms").glob("[!_]*.py")))
    for number in range(count - own):
        shutil.copy(ROOT / "mechanisms" / "linear.py", folder / "mechanisms" / f"copy{number}.py")
        (folder / "conf" / "mechanism" / f"copy{number}.yaml").write_text(f"name: copy{number}\nchunk: 64\n")
    return folder


def seconds(checkout: Path, arguments: list[str], **environment: str) -> float:
    """Return the median wall time of `cab ARGUMENTS`, after one run that fills the caches."""
    command = [sys.executable, "-P", "-c", "from cab.cli import app; app(prog_name='cab')", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(checkout), "CAB_CACHE": str(checkout / ".cache"), **environment}
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        process = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=checkout)
        times.append(time.perf_counter() - start)
        assert process.returncode == 0 and process.stdout, process.stderr
    return statistics.median(times[1:])


def main() -> None:
    """Print every figure with its limit."""
    few = ["mechanism=softmax,linear,local,agent", "seed=range(0,2500)"]
    tab = {"_CAB_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "cab run mechanism="}
    with tempfile.TemporaryDirectory() as temporary:
        for count in (len(list((ROOT / "mechanisms").glob("[!_]*.py"))), MECHANISMS):
            checkout = copy_with_mechanisms(Path(temporary) / str(count), count)
            every = ["mechanism=glob(*)", "seed=range(0,112)"]
            cases = few if count < MECHANISMS else every
            plan = ["run", "--dry-run", "task=speed", "meters=[latency]", *cases]
            print(f"with {count} mechanisms, medians of {RUNS}:")
            print(f"  cab --help       {seconds(checkout, ['--help']):.2f} s (at most 0.2)")
            print(f"  cab list         {seconds(checkout, ['list']):.2f} s (at most 0.35)")
            print(f"  TAB mechanism=   {seconds(checkout, [], **tab):.2f} s (at most 0.5)")
            print(f"  10,000 cases     {seconds(checkout, plan):.2f} s (at most 10)")


if __name__ == "__main__":
    main()
