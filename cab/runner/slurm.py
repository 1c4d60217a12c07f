"""Slurm as a cluster, through `sbatch`, `squeue` and `scancel`. It needs no accounting."""

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cab.errors import UsageError
from cab.paths import PACKAGE
from cab.runner.bundles import Bundle

SECONDS = 60.0  # that a command of Slurm's may take
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip


class Slurm:
    """A `cab.runner.cluster.Cluster`: a bundle is one element of an array of jobs."""

    def __init__(self, keys: Mapping[str, Any]) -> None:
        """Take the keys `slurm.*`."""
        self.keys = keys
        self.leaves_jobs = keys["interrupt"] == "leave"

    def script(self, folder: Path, bundles: Sequence[Bundle]) -> str:
        """Return the script that `sbatch` gets for bundles of one kind."""
        keys, first = self.keys, bundles[0]
        options: list[tuple[str, Any]] = [
            ("job-name", "cab"),
            ("array", ",".join(str(each.number) for each in bundles)),
            ("chdir", first.working_folder),
            ("output", folder / "%a.log"),
            ("partition", keys["partition"]),
            ("account", keys["account"]),
            ("constraint", keys["constraint"]),
            ("exclude", keys["exclude"]),
            ("time", keys["time"]),
            ("cpus-per-task", keys["cpus"]),
            ("mem", keys["memory"]),
            ("gpus", keys["gpus"] if first.device_kind == "cuda" else None),
        ]
        lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in options if value is not None]
        lines.append("#SBATCH --no-requeue")  # a lost job is seen, and its rest submitted, by the command itself
        if first.is_timed and keys["exclusive"]:
            lines.append("#SBATCH --exclusive")
        # -P: a file of the working folder must not stand in for a module of the same name
        command = [keys["python"] or sys.executable, "-P", "-m", "cab.runner.bundle_job", str(folder)]
        container = f"{keys['container']} " if keys["container"] else ""
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                f"export PYTHONPATH={shlex.quote(str(PACKAGE.parent))}${{PYTHONPATH:+:$PYTHONPATH}}",
                f'exec {container}{shlex.join(command)} "$SLURM_ARRAY_TASK_ID"',
                "",
            ]
        )

    def submit(self, folder: Path, bundles: Sequence[Bundle]) -> Mapping[int, str]:
        """Submit one array; return bundle -> `<array>_<element>`."""
        done = _call(["sbatch", "--parsable"], self.script(folder, bundles))
        if done.returncode:
            raise UsageError(f"sbatch refused: {done.stderr.strip()}")
        array = done.stdout.strip().partition(";")[0]  # a federation adds ;cluster
        return {each.number: f"{array}_{each.number}" for each in bundles}

    def living(self, jobs: Iterable[str]) -> Mapping[str, str] | None:
        """Return job -> its state and nodes, of those that have not ended; None where Slurm does not answer."""
        arrays: dict[str, set[str]] = {}
        for job in jobs:
            arrays.setdefault(job.partition("_")[0], set()).add(job)
        living = {}
        for array, elements in arrays.items():
            done = _call(["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N", f"--jobs={array}"])
            if done.returncode and "Invalid job id" not in done.stderr:  # which it says of what ended some minutes ago
                return None
            for line in done.stdout.splitlines():
                job, state, nodes = line.strip().split("|")
                if job in elements and state not in ENDED:
                    living[job] = f"{state.lower()} on {nodes}" if nodes else state.lower()
        return living

    def cancel(self, jobs: Iterable[str]) -> None:
        """End jobs; one that has ended already is no error."""
        _call(["scancel", *jobs])

    def without(self, nodes: Sequence[str]) -> str:
        """Return the key that leaves nodes out, beside those that are left out already."""
        names = ",".join([*([self.keys["exclude"]] if self.keys["exclude"] else []), *nodes])
        return f"with \"slurm.exclude='{names}'\""  # quoted twice, for the shell and for a comma in a value


def _call(command: list[str], text: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise UsageError(f"engine=slurm needs the command {command[0]}: run it where jobs are submitted") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} took more than {SECONDS:g} s")
