"""Bundles: the pieces that a plan is cut into for a cluster, one job each, and the files that carry them.

A run on a cluster has a folder in the store, `clusters/<run>`. Of bundle 3 it holds `3.bundle` (what to do),
`3.progress` (a line for each thing that happened) and, as the last act of its job, `3.done`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cab.contracts.messages import LawsAnswer
from cab.paths import write_whole
from cab.planning.measurement import Measurement
from cab.runner.supervisor import Options

SECONDS_A_CHILD = 10.0  # assumed of a child that measures; a training is assumed to take its `timeout`
VERSION = 2  # of the files


@dataclass(frozen=True)
class Bundle:
    """What one job of a cluster does."""

    number: int
    run_id: str
    measurements: Sequence[Measurement]
    results: str  # the store's folder
    working_folder: str
    options: Options
    laws_only: bool = False  # run the laws of the measurements, measure nothing
    verdicts: Mapping[str, LawsAnswer] = field(default_factory=dict)  # known ones, by the verdict's key
    attempt: int = 0  # times that this work was lost before

    @property
    def name(self) -> str:
        """Name the bundle among those of all runs."""
        return f"{self.run_id}-{self.number}"

    @property
    def device_kind(self) -> str:
        """Return `cpu`, `cuda` or `mps`."""
        return self.measurements[0].case.device.partition(":")[0]

    @property
    def is_timed(self) -> bool:
        """Whether something in it must be alone on its node."""
        return not self.laws_only and any(each.hosted and not each.trains for each in self.measurements)


@dataclass(frozen=True)
class Done:
    """What a job says at its end."""

    host: str
    error: str = ""  # why nothing of it could be measured
    verdicts: Mapping[str, LawsAnswer] = field(default_factory=dict)  # of a bundle that is `laws_only`


def cut(measurements: Iterable[Measurement], minutes: float) -> list[list[Measurement]]:
    """Cut measurements into lists that one job takes about so many minutes for.

    The measurements of a list are of one kind of device, and are all timings or none. Timings are of one device and
    number of threads, those of their control. A case's timings stay together, and what is measured of one training.
    """
    cases: dict[tuple[str, bool, int | None], dict[str, list[Measurement]]] = {}
    for each in measurements:
        if each.hosted and not each.trains:
            kind = (each.case.device, True, each.case.settings.get("threads"))
        else:
            kind = (each.case.device.partition(":")[0], False, None)
        cases.setdefault(kind, {}).setdefault(each.training or each.case.id, []).append(each)
    pieces = []
    for by_case in cases.values():
        piece: list[Measurement] = []
        for of_case in by_case.values():
            if piece and _seconds([*piece, *of_case]) > 60 * minutes:
                pieces.append(piece)
                piece = []
            piece = [*piece, *of_case]
        pieces.append(piece)
    return pieces


def _seconds(measurements: Iterable[Measurement]) -> float:
    trainings = {each.training: each.timeout for each in measurements if each.trains}  # one serves several meters
    children = sum(each.most_processes for each in measurements if not each.trains)
    return sum(trainings.values()) + children * SECONDS_A_CHILD


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write a bundle into the run's folder, as `<number>.bundle`."""
    options = {
        "data": str(bundle.options.data),
        "force": bundle.options.force,
        "retry": sorted(bundle.options.retry),
        "workers": bundle.options.workers,
    }
    data = {
        "version": VERSION,
        "number": bundle.number,
        "run_id": bundle.run_id,
        "measurements": [each.to_json() for each in bundle.measurements],
        "results": bundle.results,
        "working_folder": bundle.working_folder,
        "options": options,
        "laws_only": bundle.laws_only,
        "verdicts": {key: asdict(verdict) for key, verdict in bundle.verdicts.items()},
        "attempt": bundle.attempt,
    }
    write_whole(folder / f"{bundle.number}.bundle", json.dumps(data))


def read_bundle(folder: Path, number: int) -> Bundle:
    """Read a bundle; `ValueError` where the file is damaged or of another version."""
    path = folder / f"{number}.bundle"
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        if data.pop("version") != VERSION:
            raise ValueError("it is of another version of cab")
        options = data["options"]
        data["options"] = Options(
            Path(options["data"]), options["force"], frozenset(options["retry"]), options["workers"]
        )
        data["measurements"] = [Measurement.from_json(each) for each in data["measurements"]]
        data["verdicts"] = {key: LawsAnswer(**verdict) for key, verdict in data["verdicts"].items()}
        return Bundle(**data)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def write_done(folder: Path, number: int, done: Done) -> None:
    """Say that a bundle's job is over: its last act."""
    write_whole(folder / f"{number}.done", json.dumps(asdict(done)))


def read_done(folder: Path, number: int) -> Done | None:
    """Return what a bundle's job said at its end, or None where it has not."""
    try:
        data = json.loads((folder / f"{number}.done").read_bytes())
        verdicts = {key: LawsAnswer(**verdict) for key, verdict in data["verdicts"].items()}
        return Done(data["host"], data["error"], verdicts)
    except (OSError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
