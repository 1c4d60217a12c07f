"""Ray: what is missing is named, and a real cluster of two nodes goes through the death of one of them."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cab
from cab.errors import UsageError
from cab.runner.ray_cluster import RayCluster

GRID = ["mechanism=none,mean,softmax", "task=speed", "seq_len=16,24,32,40,48,64", "batch=1", "heads=1", "dim=4"]
# more bundles than nodes, each long enough to be under way when its node dies
GRID += ["threads=1", "meters=[latency,flops]", "engine=ray", "bundle_minutes=3"]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs the extra `ray`: pip install 'cab-bench\[ray\]'"):
        RayCluster(None)


def test_advice_to_leave_nodes_out_names_no_key_of_another_engine() -> None:
    cluster = RayCluster.__new__(RayCluster)  # not connected
    assert cluster.without(["n5", "n7"]) == "after `ray stop` on n5, n7"


_PRIORITY = """
import os
import ray
from cab.runner.ray_cluster import RayCluster

cluster = RayCluster(None)
print(ray.get(ray.remote(num_cpus=0, resources={"bench": 1})(lambda: os.nice(0)).remote()) - os.nice(0))
cluster.close()
"""


@pytest.mark.long
@pytest.mark.timeout(300)
@needs_ray
def test_what_is_timed_has_the_usual_priority() -> None:
    done = subprocess.run([sys.executable, "-c", _PRIORITY], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[-1] == "0", done.stdout + done.stderr


# in a process of its own: Ray's daemons, and the warnings of its code, are no business of the test process
_NODES = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, resources={"bench": 1}, object_store_memory=80_000_000) for _ in range(2)]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.startswith("kill"):
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        print("killed", flush=True)
cluster.shutdown()
"""


@pytest.mark.long
@pytest.mark.timeout(900)
@needs_ray
def test_a_real_cluster_loses_a_node_and_no_row(elsewhere: Path) -> None:
    with (
        open(elsewhere / "log", "w") as log,
        subprocess.Popen([sys.executable, "-c", _NODES], stdin=-1, stdout=-1, stderr=log, text=True) as nodes,
    ):
        assert nodes.stdin and nodes.stdout
        address = nodes.stdout.readline().strip()
        assert address, (elsewhere / "log").read_text()
        command = subprocess.Popen(
            [sys.executable, "-m", "cab.cli", "run", *GRID, f"ray.address={address}"],
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        )
        under_way: list[Path] = []
        while command.poll() is None and len(under_way) < 2:  # one on each node
            time.sleep(0.2)
            begun = (elsewhere / "results").glob("clusters/*/*.progress")
            under_way = [each for each in begun if not each.with_suffix(".done").exists()]
        nodes.stdin.write("kill\n")
        nodes.stdin.flush()
        assert nodes.stdout.readline() == "killed\n"
        code = command.wait(800)
        nodes.stdin.close()
    text = (elsewhere / "log").read_text()
    assert code == 0 and "was lost" in text and "submitted again" in text, text
    rows = cab.load(elsewhere / "results")
    assert set(rows.status) == {"ok"} and set(rows.groupby(["mechanism", "n"]).size()) == {len(rows) // 18}
    assert not rows.duplicated(["case_id", "metric"]).any()
