"""Small runs through a supervisor, and mechanisms of a user's for them."""

from pathlib import Path
from typing import Any

from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.runner.fork_client import ForkClient
from cab.runner.supervisor import Options, Supervisor
from cab.store.entry import MetricResult
from cab.store.store import Store
from cab.terminal.progress import Silent

DEADLY = f"{Path(__file__).parents[1] / 'deadly_plugins' / 'deaths.py'}:Deadly"
FAST = ["task=speed", "meters=[memory,flops]", "batch=1", "heads=1", "dim=4", "threads=1"]
ATTEND = "def attend(self, q, k, v, key_mask=None, query_mask=None):\n"


class Notes(Silent):
    """Remembers what the supervisor says."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.ended: list[tuple[str, str, str]] = []  # meter, status, reason

    def note(self, text: str) -> None:
        self.notes.append(text)

    def done(self, measurement: Measurement, status: str, reason: str) -> None:
        self.ended.append((measurement.meter, status, reason))


def users_file(folder: Path, body: str, patterns: str = "{'NS': 'native'}") -> str:
    """Write a mechanism of a user's with this body, and return its name."""
    lines = "".join(f"    {line}\n" if line else "\n" for line in body.splitlines())
    text = f"import torch\nfrom cab import Mechanism\n\n\nclass Mine(Mechanism):\n    patterns = {patterns}\n\n{lines}"
    (folder / "mine.py").write_text(text)
    return "./mine.py:Mine"


def carry_out(
    server: Any, overrides: list[str], folder: Path, preflight: bool = True, **options: Any
) -> tuple[list[Measurement], Notes]:
    """Measure into `folder`/results what its store lacks, with a server that is already there."""
    notes, store = Notes(), Store(folder / "results").open_for_writing()
    measurements = plan([*FAST, *overrides]).measurements
    supervisor = Supervisor(store, server, Options(data=folder, **options), notes)
    pending = supervisor.pending(measurements)
    if preflight:
        supervisor.preflight(pending)
    supervisor.carry_out(pending)
    return measurements, notes


def results(measurement: Measurement, folder: Path) -> dict[str, MetricResult]:
    """Return metric -> result of a measurement in `folder`/results."""
    entry = Store(folder / "results").read(measurement.file)
    assert entry is not None
    return dict(entry.metrics)


def measure(
    server: ForkClient, overrides: list[str], folder: Path, **options: Any
) -> tuple[dict[str, dict[str, MetricResult]], Notes]:
    """Carry out the measurements of one case; return meter -> metric -> result."""
    measurements, notes = carry_out(server, overrides, folder, **options)
    return {measurement.meter: results(measurement, folder) for measurement in measurements}, notes


def by_length(
    server: Any, overrides: list[str], metric: str, folder: Path, **options: Any
) -> dict[tuple[int, int], MetricResult]:
    """Carry out measurements of several lengths; return (n, m) -> result of one metric."""
    measurements, _ = carry_out(server, overrides, folder, **options)
    return {(each.case.n, each.case.m): results(each, folder)[metric] for each in measurements}


def ratio_samples(number: int, spread: float) -> dict[str, Any]:
    """Return a ratio's samples of process `number`: the first five spread, the others are in their middle.

    With a spread of 0.08 the interval is wide after five processes, and narrow after six.
    """
    value = 1.0 + spread * (number % 2 if number < 5 else 0.5)
    return {"samples": [value] * 20, "flipped": [False, True] * 10}
