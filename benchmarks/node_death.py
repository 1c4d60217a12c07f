"""A grid on two nodes of a cluster, one of which dies on the way: does every planned row come, and come once?

    python benchmarks/node_death.py slurm|ray [OVERRIDES ...]

Without overrides: `grid=efficiency` of two mechanisms at one length. Both nodes are on this machine
(`crash_clusters.py`). When a bundle is under way on each, one node dies with all its processes, and comes back after
some seconds. Prints which bundles were lost, what became of the planned rows, and how long it took.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from crash_clusters import cluster, why_not

import cab
from cab.planning.plan import plan

KINDS = {"slurm": "slurm node", "ray": "ray node"}
GRID = ["grid=efficiency", "mechanism=softmax,linear", "seq_len=256"]


def under_way(store: Path) -> int:
    """Return how many bundles have begun and not ended."""
    begun = list(store.glob("clusters/*/*.progress"))
    return sum(not each.with_suffix(".done").exists() for each in begun)


def main() -> int:
    """Print what became of the cases; return 1 where a row is lost, doubled or not of a final status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=KINDS)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    kind, words = KINDS[given.engine], given.overrides or GRID
    if why := why_not(kind):
        raise SystemExit(why)
    planned = {(each.case.id, metric) for each in plan([*words, "threads=1"]).measurements for metric in each.metrics}
    with tempfile.TemporaryDirectory(prefix="cab-death-") as name:
        folder, start, killed = Path(name), time.monotonic(), False
        with cluster(kind, folder / "cluster", random.Random(0)) as running, open(folder / "log", "w") as log:
            command = subprocess.Popen(
                [sys.executable, "-c", "from cab.cli import app; app()", "run", *words, "threads=1", *running.words],
                cwd=folder,
                env={**os.environ, **running.variables, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
            while command.poll() is None:
                killed = killed or (under_way(folder / "results") >= 2 and running.kill())
                time.sleep(0.2)
        seconds, said = time.monotonic() - start, (folder / "log").read_text().splitlines()
        table = cab.load(folder / "results")
    measured = Counter((row.case_id, row.metric) for row in table[table["step"].isna()].itertuples())
    lost, doubled = planned - set(measured), [each for each, count in measured.items() if count > 1]
    print(*(line for line in said if "lost" in line or "submitted again" in line), sep="\n")
    print(f"cab run {' '.join(words)} engine={given.engine}: exit code {command.returncode} after {seconds:.0f} s")
    print(f"a node {'died' if killed else 'did NOT die'}; {len(planned)} rows planned, {len(measured)} there, ", end="")
    print(f"{len(lost)} lost, {len(doubled)} doubled; {table['status'].value_counts().to_dict()}")
    bad = set(table["status"]) - {"ok", "unsupported"}
    return int(bool(lost or doubled or bad or not killed or command.returncode))


if __name__ == "__main__":
    sys.exit(main())
