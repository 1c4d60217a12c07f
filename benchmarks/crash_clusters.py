"""Clusters of two nodes on this machine, for `crash.py`: what can die on one, and what starts it again.

A Slurm of our own takes root and Slurm's commands, a Ray of our own the extra `ray`.
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.runner.slurm_cluster import MISSING, slurm_cluster

BUNDLES = ["bundle_minutes=2", "retries=100"]  # what is killed four times in a row is no reason to give up
_RAY = """
import sys
from ray.cluster_utils import Cluster

def node():
    return cluster.add_node(num_cpus=1, resources={"bench": 1}, object_store_memory=80_000_000)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [node(), node()]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(0), allow_graceful=False)
    nodes.append(node())
    print("killed", flush=True)
cluster.shutdown()
"""


@dataclass
class RunningCluster:
    """A cluster that a command can be given, and how one of its parts is killed."""

    words: list[str]  # for the command
    kill: Callable[[], bool]  # False where there was nothing to kill
    variables: dict[str, str] = field(default_factory=dict)  # for the command's environment


def why_not(kind: str) -> str:
    """Say why a kind cannot happen here; "" where it can."""
    if kind == "ray node":
        return "" if importlib.util.find_spec("ray") else "the extra `ray` is not installed"
    if os.getuid() != 0:
        return "a Slurm of our own takes root"
    return f"a Slurm of our own takes the commands {', '.join(MISSING)}" if MISSING else ""


@contextmanager
def cluster(kind: str, folder: Path, draw: random.Random) -> Iterator[RunningCluster]:
    """Start the cluster on which a part of this kind can be killed."""
    with _ray() if kind == "ray node" else _slurm(kind, folder, draw) as running:
        yield running


@contextmanager
def _slurm(kind: str, folder: Path, draw: random.Random) -> Iterator[RunningCluster]:
    port = 21000 + draw.randrange(13000) * 3
    with slurm_cluster(folder, port, revive=True) as variables:

        def kill() -> bool:
            named = f"SLURM_CONF={variables['SLURM_CONF']}".encode()
            if kind == "slurm node":
                of_node = {pid: _read(pid, "cmdline") for pid in _processes(named) if _on_second_node(pid)}
                hit = any(b"cab.runner.bundle_job" in command for command in of_node.values())
                return hit and all([_killed(pid) for pid in of_node])
            word = b"cab.runner.bundle_job" if kind == "array element" else b"slurmd"
            victims = [pid for pid in _processes(named) if word in _read(pid, "cmdline").split(b"\0")]
            return _killed(draw.choice(victims)) if victims else False

        yield RunningCluster(["engine=slurm", *BUNDLES], kill, variables)


@contextmanager
def _ray() -> Iterator[RunningCluster]:
    variables = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", _RAY], stdin=-1, stdout=-1, stderr=subprocess.DEVNULL, text=True
    ) as nodes:
        assert nodes.stdin and nodes.stdout

        def kill() -> bool:
            assert nodes.stdin and nodes.stdout
            nodes.stdin.write("kill\n")
            nodes.stdin.flush()
            return nodes.stdout.readline() == "killed\n"

        address = nodes.stdout.readline().strip()
        try:
            yield RunningCluster(["engine=ray", f"ray.address={address}", *BUNDLES], kill, variables)
        finally:
            nodes.stdin.close()


def _on_second_node(pid: int) -> bool:
    """Whether a process is the daemon of the node n2, or one of its jobs' processes."""
    job = b"SLURMD_NODENAME=n2" in _read(pid, "environ").split(b"\0")
    return job or _read(pid, "cmdline").startswith((b"slurmd\0-N\0n2", b"slurmstepd"))


def _killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _processes(variable: bytes) -> list[int]:
    """Return the processes that have a variable in their environment."""
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in found if variable in _read(pid, "environ").split(b"\0")]


def _read(pid: int, file: str) -> bytes:
    with suppress(OSError):  # it has ended, or is not ours
        return Path(f"/proc/{pid}/{file}").read_bytes()
    return b""
