"""Kill anything at any moment, run the same command again, and the table is the undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import cab

GRID = ["mechanism=none,softmax", "task=speed", "pattern=NS,CC", "seq_len=16,32", "batch=1", "heads=1", "dim=4"]
GRID += ["threads=1", "meters=[latency,memory,flops]"]
TARGETS = ("child", "server", "command", "interrupt")  # the supervisor lives in the command
TIMES = ["value", "ci_low", "ci_high", "count", "converged", "stop_reason"]
MARK = "CAB_CRASH_TEST"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    start = time.monotonic()
    assert _start(folder).wait() == 0
    return _table(folder), time.monotonic() - start


def crash(target: str, moment: float, folder: Path, expected: pd.DataFrame) -> None:
    command = _start(folder)
    time.sleep(moment)
    try:
        if target == "interrupt":
            command.send_signal(signal.SIGINT)
        elif target == "command":
            command.kill()
        else:
            victims = list(_family(command.pid, target))
            for pid in victims[:1]:  # at this moment there may be none yet
                os.kill(pid, signal.SIGKILL)
        code = command.wait(60)
    except ProcessLookupError:  # it ended by itself a moment before
        code = command.wait(60)
    # -2: Python was already taking itself down, where it has no handler any more and hence no traceback to print
    assert code in {"interrupt": (130, 0, -2), "command": (-9, 0), "child": (0, 1), "server": (0,)}[target], code
    if target == "interrupt":
        assert "Traceback" not in (folder / "stderr.txt").read_text()
    deadline = time.monotonic() + 15
    while _left(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _left(folder), "a process was left"
    retry = ["--retry", "error"] if target == "child" else []
    assert _start(folder, *retry).wait() == 0
    again = _table(folder)
    pd.testing.assert_frame_equal(again, expected)
    assert not list((folder / "results" / "cases").glob("*/.*")), "half a file was left"


@pytest.mark.parametrize("target", TARGETS)
def test_a_kill_costs_nothing_but_time(target: str, tmp_path: Path, undisturbed: tuple[pd.DataFrame, float]) -> None:
    expected, seconds = undisturbed
    crash(target, random.Random(target).uniform(0.5, 0.9) * seconds, tmp_path, expected)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_moments(tmp_path: Path, undisturbed: tuple[pd.DataFrame, float]) -> None:
    expected, seconds = undisturbed
    draw = random.Random(0)
    for turn in range(20):
        folder = tmp_path / str(turn)
        folder.mkdir()
        crash(TARGETS[turn % len(TARGETS)], draw.uniform(0, 1.1) * seconds, folder, expected)


def test_two_runs_on_one_store_share_the_work(tmp_path: Path, undisturbed: tuple[pd.DataFrame, float]) -> None:
    runs = [_start(tmp_path), _start(tmp_path)]
    assert [run.wait() for run in runs] == [0, 0]
    pd.testing.assert_frame_equal(_table(tmp_path), undisturbed[0])
    rows = cab.load(tmp_path / "results")
    assert set(rows[rows["metric"] == "latency"]["processes"]) == {5}


def _start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from cab.cli import app; app()", "run", *GRID, *options]
    with (folder / "stderr.txt").open("a") as stderr:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, MARK: str(folder), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def _table(folder: Path) -> pd.DataFrame:
    """Return the rows without what two undisturbed runs differ in, as `commit` where somebody commits meanwhile."""
    rows = cab.load(folder / "results").drop(columns=["time", "run_id", "commit"])
    rows.loc[rows["metric"] == "latency", TIMES] = pd.NA
    rows.loc[rows["metric"] == "peak_resident", TIMES] = pd.NA
    return rows.sort_values(["case_id", "metric"]).reset_index(drop=True)


def _family(command: int, target: str) -> Iterator[int]:
    """Return the server of a command, or the server's child."""
    for server in _children(command):
        if target == "server":
            yield server
        else:
            yield from _children(server)


def _children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def _left(folder: Path) -> list[int]:
    """Return the processes that a command, its server or a child of it left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={folder}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found
