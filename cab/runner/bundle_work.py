"""What one job of a cluster does: a supervisor with its fork server carries out one bundle."""

import json
import os
import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cab import environment
from cab.errors import UsageError
from cab.planning.measurement import Measurement
from cab.planning.plan import on_this_machine
from cab.runner import verdict_cache
from cab.runner.bundles import Bundle, Done, read_bundle, write_done
from cab.runner.control_case import PROCESSES, control_case
from cab.runner.fork_client import ForkClient
from cab.runner.supervisor import Supervisor
from cab.store import controls
from cab.store.store import Store


class ProgressFile:
    """A `cab.runner.listener.Listener` that writes a line of JSON for each call, for the submitting command to read."""

    def __init__(self, path: Path, numbers: dict[tuple[str, str], int]) -> None:
        """Take the number in the bundle of each (case id, meter)."""
        self._file = open(path, "a", buffering=1)
        self._numbers, self._lock = numbers, threading.Lock()

    def __enter__(self) -> "ProgressFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def start(self, measurements: Sequence[Measurement], pending: Sequence[Measurement], children: int) -> None: ...

    def doing(self, what: str, worker: int | None = None) -> None:
        if what:
            self._write(doing=what)

    def step(self, measurement: Measurement, children: int, more: int) -> None:
        self._write(step=self._number(measurement), children=children, more=more)

    def done(self, measurement: Measurement, status: str, reason: str) -> None:
        self._write(done=self._number(measurement), status=status, reason=reason)

    def note(self, text: str) -> None:
        self._write(note=text)

    def _number(self, measurement: Measurement) -> int:
        return self._numbers[measurement.case.id, measurement.meter]

    def _write(self, **event: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(event) + "\n")


def carry_out(folder: Path, number: int, client: ForkClient) -> None:
    """Carry out a bundle; what cannot be measured on this machine at all is said in its `.done` file."""
    bundle = read_bundle(folder, number)
    os.chdir(bundle.working_folder)
    host = platform.node()
    numbers = {(each.case.id, each.meter): index for index, each in enumerate(bundle.measurements)}
    try:
        with ProgressFile(folder / f"{number}.progress", numbers) as listener:
            verdicts = _measure(bundle, listener, client)
    except UsageError as error:
        write_done(folder, number, Done(host, str(error)))
    else:
        write_done(folder, number, Done(host, verdicts=verdicts))


def _measure(bundle: Bundle, listener: ProgressFile, client: ForkClient) -> dict[str, Any]:
    """Measure; of a bundle that is `laws_only`, return the verdicts by their keys."""
    for key, verdict in bundle.verdicts.items():
        verdict_cache.keep(key, verdict)
    store = Store(Path(bundle.results)).open_for_writing()
    measurements = [on_this_machine(each) for each in bundle.measurements]
    supervisor = Supervisor(store, client, bundle.options, listener, bundle.run_id, bundle.name)
    if bundle.laws_only:
        supervisor.check_laws(measurements)
        keys = [verdict_cache.key(each.case) for each in measurements]
        found = {key: verdict_cache.load(key) for key in keys}
        return {key: verdict for key, verdict in found.items() if verdict is not None}
    pending = supervisor.pending(measurements)
    if pending:
        supervisor.preflight(pending, whole=False)
        with _controlled(bundle, supervisor):
            supervisor.carry_out(pending)
    return {}


@contextmanager
def _controlled(bundle: Bundle, supervisor: Supervisor) -> Iterator[None]:
    """Time the control case before and after a bundle of timings, and keep both times in the store."""
    device, threads = bundle.measurements[0].case.device, bundle.measurements[0].case.settings.get("threads")
    if not bundle.is_timed:
        yield
        return
    case, folder = control_case(device, threads), supervisor.store.folder
    control = controls.Control(bundle.run_id, bundle.number, environment.identity(device, threads, True))
    control = replace(control, before=supervisor.latency(case, PROCESSES))
    controls.keep(folder, control)
    yield
    controls.keep(folder, replace(control, after=supervisor.latency(case, PROCESSES)))
