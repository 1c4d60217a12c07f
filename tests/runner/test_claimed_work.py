"""Leases on a real store: several supervisors share its work, some are killed, some stand still, and no row is lost.

The fork server is a stub whose every sample is a number of its own, so that a lost sample and a doubled one are seen.
"""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cab.contracts.messages import ChildExit, MeasureAnswer, MeasureJob, Samples
from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.runner import locks
from cab.runner.fork_client import Ending
from cab.runner.supervisor import Options, Supervisor
from cab.store import leases
from cab.store.store import Store
from cab.terminal.progress import Silent
from tests.runner.example_runs import FAST

FORK = multiprocessing.get_context("fork")
GRID = [*FAST, "mechanism=none,mean", "pattern=NS,CS,NC,CC", "seq_len=16,32,48,64", "meters=[latency]"]
WRITERS, SECONDS = 4, 6.0  # seconds of kills; then what is left is done undisturbed
RENEWAL, EXPIRY = 0.05, 0.5


class Numbering:
    """A stub of the fork server. `last` is the sample that it returned last."""

    def __init__(self) -> None:
        self.last = os.getpid() * 1_000_000.0

    def run(self, job: MeasureJob, deadline: float, memory: int | None, waiting: Callable[[str], None]) -> Ending:
        time.sleep(random.uniform(0.05, 0.15))
        self.last += 1
        samples = {meter: Samples({meter: {"samples": [self.last]}}) for meter in job.meters}
        return Ending(MeasureAnswer(samples, True, 0.0), ChildExit("ended", 0, None, 0, 0.0), "")


class Acknowledging(Silent):
    """Writes down each sample once the store has it."""

    def __init__(self, server: Numbering, path: Path) -> None:
        self.server, self.path = server, path

    def step(self, measurement: Measurement, children: int, more: int) -> None:
        with open(self.path, "a") as file:
            file.write(f"{self.server.last:.0f}\n")


def supervise(folder: Path, measurements: list[Measurement]) -> None:
    random.seed()
    server: Any = Numbering()
    store = Store(folder / "results").open_for_writing()
    options = Options(folder)
    supervisor = Supervisor(store, server, options, Acknowledging(server, folder / f"{os.getpid()}.samples"))
    supervisor.check_laws = lambda *arguments, **keywords: None  # type: ignore[method-assign]
    pending = supervisor.pending(measurements)
    random.shuffle(pending)
    supervisor.carry_out(pending)


@contextmanager
def _no_lock(*arguments: Any) -> Iterator[None]:
    yield


@pytest.mark.timeout(120)
def test_writers_that_are_killed_or_stand_still_lose_and_double_no_row(
    elsewhere: Path, lawful: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAB_LOCKS", "lease")
    monkeypatch.setattr(leases, "RENEWAL", RENEWAL)
    monkeypatch.setattr(leases, "EXPIRY", EXPIRY)
    monkeypatch.setattr(locks, "device", _no_lock)
    measurements = plan(GRID).measurements
    draw = random.Random(0)

    def started() -> Any:
        writer = FORK.Process(target=supervise, args=(elsewhere, measurements))
        writer.start()
        return writer

    writers, killed, stopped = [started() for _ in range(WRITERS)], 0, 0
    deadline = time.monotonic() + SECONDS
    try:
        while time.monotonic() < deadline:
            time.sleep(draw.uniform(0.05, 0.4))
            writer = draw.choice(writers)
            if not writer.is_alive():
                continue
            if killed <= stopped:  # in turns, so that both happen however early the work is done
                os.kill(writer.pid, signal.SIGKILL)
                writer.join()
                writers[writers.index(writer)] = started()
                killed += 1
            else:
                os.kill(writer.pid, signal.SIGSTOP)
                time.sleep(1.5 * EXPIRY)
                os.kill(writer.pid, signal.SIGCONT)
                stopped += 1
        for writer in writers:
            writer.join(60)
            assert writer.exitcode == 0
    finally:
        for writer in writers:
            writer.kill()
    assert killed > 1 and stopped > 1, "the work was over before it was disturbed"
    acknowledged = {line for path in elsewhere.glob("*.samples") for line in path.read_text().split()}
    kept: list[str] = []
    for measurement in measurements:
        entry = Store(elsewhere / "results").read(measurement.file)
        assert entry is not None and len(entry.processes) == measurement.processes
        kept += [f"{sample:.0f}" for process in entry.processes for sample in process.metrics["latency"]["samples"]]
    assert len(kept) == len(set(kept)) == len(measurements) * measurements[0].processes, "a sample was doubled"
    assert acknowledged <= set(kept), "a sample was lost"
    assert len(acknowledged) >= len(kept) - killed, json.dumps(sorted(set(kept) - acknowledged))
    assert not list((elsewhere / "results" / "locks").glob("*.lock"))
