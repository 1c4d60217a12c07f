"""A real Slurm of two nodes on this machine, in a process of its own: its death ends daemons and jobs."""

import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "unshare", "setpriv")
MISSING = [name for name in COMMANDS if not shutil.which(name)]
NODES = ("n1", "n2")

_CONFIGURATION = """
ClusterName=cab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=1
SlurmdTimeout=10
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=1
PartitionName=main Nodes=ALL Default=YES State=UP
"""
_START = """
munged --force --key-file=$D/key --socket=$D/munge --pid-file=$D/munge.pid --log-file=$D/munge.log --seed-file=$D/seed
slurmctld -i
slurmd -N n1
slurmd -N n2
"""
# daemons and jobs die with this script, and this script with who started it
_APART = "setpriv --pdeathsig KILL unshare --pid --fork --mount-proc --kill-child".split()
_WAIT = "while :; do sleep 0.2; done"
# a daemon that died, as its host would do: a node is back after some seconds
_REVIVE = """
while :; do
  sleep 3
  for node in n1 n2; do pgrep -f "^slurmd -N $node" >/dev/null || slurmd -N $node; done
done
"""


@contextmanager
def slurm_cluster(folder: Path, port: int, revive: bool = False) -> Iterator[dict[str, str]]:
    """Start it; yields the variables of the environment under which Slurm's commands talk to it.

    With `revive` a `slurmd` that dies is started again.
    """
    host = platform.node().partition(".")[0]
    for name in ("state", *NODES):
        (folder / name).mkdir(parents=True)
    configuration = _CONFIGURATION.format(host=host, folder=folder, port=port, port1=port + 1, port2=port + 2)
    (folder / "slurm.conf").write_text(configuration)
    (folder / "key").write_bytes(os.urandom(64))
    (folder / "key").chmod(0o400)
    variables = {"SLURM_CONF": str(folder / "slurm.conf"), "D": str(folder)}
    environment = {**os.environ, **variables}
    script = _START + (_REVIVE if revive else _WAIT)
    with open(folder / "start.log", "wb") as log:
        daemons = subprocess.Popen(
            [*_APART, "bash", "-c", script],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while _idle(environment) < len(NODES):
            assert time.monotonic() < deadline and daemons.poll() is None, (folder / "start.log").read_text()
            time.sleep(0.2)
        yield variables
    finally:
        os.killpg(daemons.pid, signal.SIGKILL)
        daemons.wait()


def _idle(environment: dict[str, str]) -> int:
    done = subprocess.run(["sinfo", "-hN", "-o", "%t"], env=environment, capture_output=True, text=True)
    return done.stdout.split().count("idle")
