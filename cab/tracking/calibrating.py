"""Measure pairs of the same code, and print and keep what they say of this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from cab import environment
from cab.contracts.case import digest
from cab.paths import cache
from cab.tracking.calibration import POWER, calibrate_case, false_alarms, keep, load
from cab.tracking.cases import TrackedCase, device_of
from cab.tracking.compare import Measure, log_ratios_of
from cab.tracking.lockstep import PROCEDURE
from cab.tracking.sides import installed_side
from cab.tracking.verdicts import CONFIRM_PAIRS, Minimum

if TYPE_CHECKING:
    from rich.console import Console


def calibration_file(results: Path, device: str = "cpu") -> Path:
    """Return where the calibration of this environment is kept."""
    identity = environment.environment_id(environment.identity(device, 1, True))
    return results / "track" / f"calibration-{PROCEDURE}-{identity}.json"


def calibrate_and_print(
    cases: Sequence[TrackedCase],
    runs: int,
    minimum: Minimum,
    results: Path,
    out: "Console",
    progress: Callable[[str], None],
    measure: Measure | None = None,
) -> None:
    """Measure `runs` times 18 pairs of each case; what a killed run has measured is not measured again.

    Who calibrates again after it has finished asks what the machine finds now, so all pairs are new.
    """
    from rich.markup import escape
    from rich.table import Table

    file = calibration_file(results, device_of(cases))
    load(file)  # a damaged one is said before, not after, an hour of measuring
    side = installed_side()
    unfinished = results / "track" / "calibrating" / digest([case.id for case in cases])
    caches = cache() / "track" / "compiled"
    pairs = log_ratios_of(side, cases, runs * CONFIRM_PAIRS, unfinished, caches, progress, measure)
    known = {name: calibrate_case(values, len(cases)) for name, values in pairs.items()}
    keep(file, known)
    rmtree(unfinished, ignore_errors=True)  # a finished calibration is measured again when it is asked for again
    table = Table(box=None, pad_edge=False)
    for name in ("case", "noise", f"found in {POWER:.0%} of tries", "pairs"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for name, each in known.items():
        smallest = f"{each.smallest:.0%}" if each.smallest is not None else "none"
        table.add_row(escape(name), f"{each.noise:.1%}", smallest, str(each.pairs))
    out.print(table)
    alarms = false_alarms(pairs, minimum)
    if alarms.runs:
        low, high = alarms.interval
        out.print(
            f"false alarms: {alarms.alarms} of {alarms.runs} (95 % interval {low:.1%} to {high:.1%})", highlight=False
        )
    for case in cases:
        if case.name not in pairs:
            out.print(escape(f"no data: {case.name}"), highlight=False)
