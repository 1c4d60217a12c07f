"""Time `cab track history` and `cab track plot` on a large synthetic history, in seconds of user time.

    python benchmarks/track_history.py [--commits 10000] [--cases 50]

User time is printed beside wall time, because other load delays the latter alone. Changes are computed before, as when
points are recorded, and their time is printed too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cab.tracking.history import Point, append


def synthetic(folder: Path, commits: int, cases: int) -> None:
    """Write a history with a step of 10 % in the middle of every fifth case."""
    draw = np.random.default_rng(0)
    names = [f"{number:040x}"[::-1] for number in draw.permutation(commits)]
    points = []
    for case in range(cases):
        values = 0.002 * np.exp(draw.normal(0, 0.03, commits))
        if case % 5 == 0:
            values[commits // 2 :] *= 1.1
        points += [
            Point(name, float(place), f"case {case}", "synthetic", "latency", float(value), "s", "synthetic", 0.0)
            for place, (name, value) in enumerate(zip(names, values, strict=True))
        ]
    append(folder, points)


def timed(*command: str) -> str:
    """Run a command; return its user and wall time."""
    before, start = os.times(), time.monotonic()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return f"{after.children_user - before.children_user:.2f} s user, {time.monotonic() - start:.2f} s wall"


def main() -> None:
    """Parse, write, time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--cases", type=int, default=50)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        synthetic(folder, options.commits, options.cases)
        code = "import sys, pathlib, cab.tracking.findings as f; f.refresh(pathlib.Path(sys.argv[1]), ['synthetic'])"
        print("changes of all series:", timed("-c", code, name))
        print(f"{len(json.loads((folder / 'changes' / 'synthetic.json').read_text()))} changes")
        cab = ("-m", "cab.cli", "track")
        print("cab track history:", timed(*cab, "history", "--history", name))
        print("cab track plot:", timed(*cab, "plot", f"{name}/page.html", "--history", name))
        print(f"the page has {(folder / 'page.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
