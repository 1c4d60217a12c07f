"""Trainings on two nodes of a cluster beside one: how much of the time is left.

    python benchmarks/two_nodes.py [--trainings 40] [--steps 60]

A Slurm of two nodes runs on this machine, each with one core (`tests/runner/slurm_cluster.py`, which takes root and
Slurm's commands). The same trainings of one thread run on both, and on one of them. Both stores must hold the same
scores. Two nodes must take at most .6 of the time of one. It takes some minutes; leave the machine alone meanwhile.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

import cab

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.runner.slurm_cluster import MISSING, slurm_cluster

AIM = 0.6
BUNDLES = 8


def grid(trainings: int, steps: int) -> list[str]:
    """Return the overrides of so many trainings, in `BUNDLES` bundles: a training is taken to need its timeout."""
    words = ["task=recall_cc", "mechanism=softmax,linear", f"seed=range({trainings // 2})", "threads=1"]
    words += ["meters=[quality]", "scale=quick", f"training.steps={steps}", "timeout=120"]
    return [*words, f"bundle_minutes={120 / 60 * trainings / BUNDLES}", "engine=slurm"]


def seconds(folder: Path, words: list[str], environment: dict[str, str]) -> float:
    """Run `cab run` in a folder and return how long it took; the laws are known."""
    folder.mkdir()
    command = [sys.executable, "-c", "from cab.cli import app; app()", "run", *words]
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.monotonic() - start


def scores(folder: Path) -> pd.Series:
    """Return the score of each training."""
    rows = cab.load(folder / "results")
    return rows[rows["step"].isna()].set_index(["case_id", "metric"])["value"].sort_index()


def main() -> int:
    """Print both times and their ratio; return 1 where it misses its aim, or where the scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=40)
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()
    if MISSING or os.getuid() != 0:
        raise SystemExit(f"a Slurm of our own takes root and its commands; missing: {', '.join(MISSING) or 'root'}")
    words = grid(given.trainings, given.steps)
    with tempfile.TemporaryDirectory(prefix="cab-nodes-") as name:
        folder = Path(name)
        with slurm_cluster(folder / "slurm", 21000 + os.getpid() % 9000 * 3) as variables:
            environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
            seconds(folder / "laws", [*words, "seed=0", "training.steps=1"], environment)
            two = seconds(folder / "two", words, environment)
            one = seconds(folder / "one", [*words, "slurm.exclude=n2"], environment)
        same = scores(folder / "one").equals(scores(folder / "two"))
        count = len(scores(folder / "two"))
    print(f"{given.trainings} trainings ({count} scores, {'the same' if same else 'NOT the same'} on both)")
    print(f"one node {one:.1f} s, two nodes {two:.1f} s: {two / one:.2f} of the time (aim: {AIM})")
    return int(two / one > AIM or not same)


if __name__ == "__main__":
    sys.exit(main())
