"""How long a new user waits for the first table: with caches that are empty, and again with caches that are full.

    python benchmarks/first_run.py [--cab CAB]

The store is empty each time, so that every case is measured; the caches (cards, verdicts of the laws) are empty in the
cold runs alone. Prints each run and the median of three. Run it on a machine that does nothing else.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 3
COMMANDS = {
    "four mechanisms, four patterns": (
        "mechanism=softmax,linear,local,agent pattern=NS,CS,NC,CC task=speed seq_len=256", 36.0, 15.6
    ),
    "two mechanisms": ("mechanism=softmax,linear task=speed", 9.0, None),
}  # fmt: skip


def seconds(cab: str, words: str, cache: Path) -> float:
    """Return the wall time of `cab run WORDS` into an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        process = subprocess.run(
            [cab, "run", *words.split()],
            cwd=folder,
            env={**os.environ, "CAB_CACHE": str(cache)},
            capture_output=True,
            text=True,
        )
        elapsed = time.perf_counter() - start
    assert process.returncode == 0, process.stdout + process.stderr
    return elapsed


def main() -> None:
    """Print cold and warm medians beside their aims."""
    parser = argparse.ArgumentParser(description=__doc__)
    own = Path(sys.executable).with_name("cab")
    parser.add_argument("--cab", type=Path, default=own, help="the command; by default that of this Python")
    cab = str(parser.parse_args().cab.absolute())  # it runs in another folder
    for name, (words, cold_aim, warm_aim) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "cache"
            cold = []
            for _ in range(RUNS):
                shutil.rmtree(cache, ignore_errors=True)
                cold.append(seconds(cab, words, cache))
            warm = [seconds(cab, words, cache) for _ in range(RUNS)]
        for state, times, aim in (("cold", cold, cold_aim), ("warm", warm, warm_aim)):
            each = ", ".join(f"{value:.1f}" for value in times)
            aim_text = f", aim {aim:.1f} s" if aim else ""
            print(f"{name}, {state}: {statistics.median(times):.1f} s ({each}){aim_text}", flush=True)


if __name__ == "__main__":
    main()
