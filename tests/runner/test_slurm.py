"""Slurm: the script, the commands, and a real one of two nodes through the deaths of jobs and of a node."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import cab
from cab.errors import UsageError
from cab.planning.plan import plan
from cab.runner.bundles import Bundle
from cab.runner.slurm import Slurm
from cab.runner.supervisor import Options
from tests.runner.example_runs import FAST
from tests.runner.slurm_cluster import COMMANDS, MISSING, slurm_cluster

GRID = [*FAST, "mechanism=none", "seq_len=16", "meters=[latency]"]
KEYS = dict.fromkeys(
    ("partition", "account", "constraint", "exclude", "time", "cpus", "memory", "gpus", "container", "python")
)


def slurm(**keys: Any) -> Slurm:
    return Slurm({**KEYS, "exclusive": True, "interrupt": "cancel", **keys})


def bundles(grid: list[str], count: int = 2) -> list[Bundle]:
    measurements = plan(grid).measurements
    return [Bundle(n, "run", measurements, "/results", "/my work", Options(Path("/data"))) for n in range(1, count + 1)]


def test_advice_to_leave_nodes_out_is_a_value_of_the_key_that_a_command_takes() -> None:
    for exclude, expected in ((None, "n5,n7"), ("n1", "n1,n5,n7")):
        keys = {**plan([*FAST, "mechanism=none", "engine=slurm"]).cluster.slurm, "exclude": exclude}
        (_, word) = shlex.split(Slurm(keys).without(["n5", "n7"]))
        assert plan([*FAST, "mechanism=none", "engine=slurm", word]).cluster.slurm["exclude"] == expected


def test_the_script_asks_for_what_the_keys_say() -> None:
    keys = {"partition": "long", "constraint": "a100&nvlink", "time": "2:00:00", "cpus": 4, "memory": "8G"}
    script = slurm(**keys, container="apptainer exec x.sif", python="python3").script(Path("/runs/r 1"), bundles(GRID))
    lines = script.splitlines()
    for line in ("array=1,2", "partition=long", "constraint='a100&nvlink'", "time=2:00:00", "cpus-per-task=4"):
        assert f"#SBATCH --{line}" in lines
    assert "#SBATCH --exclusive" in lines and "#SBATCH --no-requeue" in lines
    assert not any("gpus" in line or "account" in line for line in lines)
    assert lines[-1] == (
        "exec apptainer exec x.sif python3 -P -m cab.runner.bundle_job '/runs/r 1' \"$SLURM_ARRAY_TASK_ID\""
    )
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_counts_do_not_ask_for_a_node_of_their_own() -> None:
    counts = bundles([*FAST, "mechanism=none", "seq_len=16", "meters=[flops]"])
    assert "--exclusive" not in slurm().script(Path("/runs"), counts)
    assert "--exclusive" not in slurm(exclusive=False).script(Path("/runs"), bundles(GRID))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stubs in place of Slurm's commands."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def stub(folder: Path, name: str, body: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{body}\n")
    (folder / name).chmod(0o755)


def test_the_number_of_the_array_is_read(commands: Path) -> None:
    stub(commands, "sbatch", f"cat > {commands}/script; echo '31;federation'")
    assert slurm().submit(Path("/runs"), bundles(GRID)) == {1: "31_1", 2: "31_2"}
    assert (commands / "script").read_text() == slurm().script(Path("/runs"), bundles(GRID))


def test_a_refusal_of_sbatch_is_what_the_user_reads(commands: Path) -> None:
    stub(commands, "sbatch", "echo 'invalid partition specified: long' >&2; exit 1")
    with pytest.raises(UsageError, match="sbatch refused: invalid partition specified: long"):
        slurm().submit(Path("/runs"), bundles(GRID))


def test_without_slurm_the_missing_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="engine=slurm needs the command sbatch"):
        slurm().submit(Path("/runs"), bundles(GRID))


def test_what_has_ended_or_vanished_is_not_living(commands: Path) -> None:
    lines = "31_1|RUNNING|n1\n31_2|PENDING|\n31_3|NODE_FAIL|n2\n31_4|CANCELLED|\n31_9|RUNNING|n1"
    stub(commands, "squeue", f"printf '{lines}\\n'")
    jobs = [f"31_{number}" for number in (1, 2, 3, 4, 5)]
    assert slurm().living(jobs) == {"31_1": "running on n1", "31_2": "pending"}
    stub(commands, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm().living(jobs) == {}
    stub(commands, "squeue", "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert slurm().living(jobs) is None


REAL = ["mechanism=none,mean,softmax", "task=speed", "seq_len=16,32", "batch=1", "heads=1", "dim=4", "threads=1"]
REAL += ["meters=[latency,flops]", "engine=slurm", "bundle_minutes=1", "retries=3"]


needs_slurm = pytest.mark.skipif(
    bool(MISSING) or os.getuid() != 0, reason=f"a Slurm of our own needs root and the commands {', '.join(COMMANDS)}"
)


@pytest.mark.long
@pytest.mark.timeout(900)
@needs_slurm
def test_a_real_cluster_loses_jobs_and_a_node_and_no_row(
    elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster(folder, 21000 + os.getpid() % 9000 * 3) as variables, open(elsewhere / "log", "w") as output:
        environment = {**os.environ, **variables}
        command = subprocess.Popen(
            [sys.executable, "-m", "cab.cli", "run", *REAL],
            env=environment,
            stderr=output,
            stdout=subprocess.DEVNULL,
        )
        victims = ["job", "cancelled", "node"]
        deadline = time.monotonic() + 800
        while command.poll() is None and time.monotonic() < deadline:
            time.sleep(1)
            running = [Path(f"/proc/{pid}") for pid in _jobs_on_node(elsewhere)]
            measuring = list((elsewhere / "results").glob("clusters/*/2.progress"))
            if not victims or not running or not measuring:
                continue
            victim = victims.pop(0)
            if victim == "job":
                os.kill(int(running[0].name), signal.SIGKILL)
            elif victim == "cancelled":
                queued = subprocess.run(["squeue", "-hro", "%i"], env=environment, capture_output=True, text=True)
                subprocess.run(["scancel", *queued.stdout.split()[-1:]], env=environment)
            else:
                (daemon,) = [pid for pid in _matching("slurmd -N n2".split()) if _inside(pid, variables)]
                os.kill(daemon, signal.SIGKILL)
        log = (elsewhere / "log").read_text()
        assert command.wait(60) == 0, log
        assert not victims, f"nothing ran long enough to lose: {log}"
    assert "was lost" in log
    rows = cab.load(elsewhere / "results")
    assert set(rows.status) == {"ok"} and set(rows.groupby(["mechanism", "n"]).size()) == {len(rows) // 6}
    assert not rows.duplicated(["case_id", "metric"]).any()
    assert not _jobs_on_node(elsewhere), "a process was left"


@pytest.mark.long
@pytest.mark.timeout(600)
@needs_slurm
@pytest.mark.parametrize("interrupt", ["cancel", "leave"])
def test_ctrl_c_ends_the_jobs_of_a_real_cluster_or_leaves_them_to_be_attached_to(
    interrupt: str, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = [sys.executable, "-m", "cab.cli", "run", *REAL, f"slurm.interrupt={interrupt}"]
    folder = tmp_path_factory.mktemp("slurm")
    with slurm_cluster(folder, 21000 + os.getpid() % 9000 * 3) as variables:
        environment = {**os.environ, **variables}

        def queued() -> list[str]:
            states = ["squeue", "-hr", "-o", "%i", "--states=PENDING,RUNNING"]
            return subprocess.run(states, env=environment, capture_output=True, text=True, check=True).stdout.split()

        first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 300
        while not list((elsewhere / "results").glob("clusters/*/2.progress")):  # the laws are over
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        first.send_signal(signal.SIGINT)
        _, printed = first.communicate(timeout=60)
        assert first.returncode == 130, printed
        if interrupt == "cancel":
            while (queued() or _jobs_on_node(elsewhere)) and time.monotonic() < deadline:
                time.sleep(0.5)
            assert not queued() and not _jobs_on_node(elsewhere)
        else:
            assert "the same command attaches to them" in printed and queued()
        second = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert second.returncode == 0, second.stderr
        assert ("attached to" in second.stderr) == (interrupt == "leave")
    rows = cab.load(elsewhere / "results")
    assert set(rows.status) == {"ok"} and not rows.duplicated(["case_id", "metric"]).any()


def _matching(words: list[str]) -> list[int]:
    pids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(line[start : start + len(words)] == words for start in range(len(line))):
            pids.append(int(path.parent.name))
    return pids


def _jobs_on_node(folder: Path) -> list[int]:
    """Return the processes of this test's jobs."""
    pids = []
    for pid in _matching(["-m", "cab.runner.bundle_job"]):
        try:
            if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
                pids.append(pid)
        except OSError:
            continue
    return pids


def _inside(pid: int, variables: dict[str, str]) -> bool:
    return f"SLURM_CONF={variables['SLURM_CONF']}" in Path(f"/proc/{pid}/environ").read_text()
