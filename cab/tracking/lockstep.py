"""A pair of fresh worker processes, and single samples of both in turn on one core, the order flipped each time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from cab.intervals import balanced_median
from cab.tracking.cores import idlest_core
from cab.tracking.processes import REQUEST_SECONDS, Servers, WorkerProcess
from cab.tracking.sides import NoData, Side

PROCEDURE = 4  # of a pair; what was measured by another one is not mixed with it
SAMPLE_SECONDS = 0.004
SAMPLES = 20  # of each side
SAMPLING_SECONDS = 0.8  # most, both sides together; slow cases get fewer samples
LEAST_SAMPLES = 6
THROTTLED = 0.9  # of the highest clock rate of a pair: what is sampled at a lower one is set apart
CALLGRIND_SECONDS = 1200.0  # most that one request may take with instructions counted


@dataclass(frozen=True)
class SamplePair:
    """A sample of each side: its seconds, and the clock rate of the device. `flipped` where the head came first."""

    sides: Mapping[str, Mapping[str, float]]
    flipped: bool


def case_on(side: Side, case: Mapping[str, Any]) -> dict[str, Any]:
    """Return the case as a side is asked for it."""
    changed = {**case, "options": dict(case["options"])}
    if "mechanism" in side.changes:  # hyper-parameters are of the mechanism that was planned
        changed["mechanism"] = side.changes["mechanism"]
        changed["options"] = {key: value for key, value in case["options"].items() if key not in case["params"]}
    if "backend" in side.changes:
        changed["options"]["backend"] = side.changes["backend"]
    return changed


def measure_pair(
    base: Side, head: Side, case: Mapping[str, Any], side_caches: Path, first: bool, servers: Servers | None = None
) -> dict[str, Any]:
    """Measure one fresh pair, of processes that `servers` fork; with `first`, check both sides and count before.

    Returns `base` and `head` (seconds of one call, sample by sample), `flipped` (whether the head came first),
    `log_ratio` (of the samples) and with `first` `counts` and `versions` of both sides. On a GPU also `clocks` (the
    lowest and the highest clock rate in MHz) and `throttled` (how many samples were set apart for a lower clock).
    `NoData` names the side that failed.
    """
    if servers is None:
        with Servers() as of_this_pair:
            return measure_pair(base, head, case, side_caches, first, of_this_pair)
    workers: dict[str, WorkerProcess] = {}
    sides = {"base": base, "head": head}
    try:
        started = {name: _named(name, servers.start, name, side, side_caches / name) for name, side in sides.items()}
        for name, side in sides.items():
            workers[name] = _named(name, WorkerProcess, started[name])
            _named(name, workers[name].send, {"do": "set up", "case": case_on(side, case)})
        # both have started together
        ready = {name: _named(name, worker.receive) for name, worker in workers.items()}
        result: dict[str, Any] = {}
        if first:
            result["versions"] = {name: answer["versions"] for name, answer in ready.items()}
            for name, worker in workers.items():
                if objection := _named(name, worker.ask, {"do": "check"}):
                    raise NoData(f"{name}: {objection}")
            seconds = CALLGRIND_SECONDS if case.get("instructions") else REQUEST_SECONDS
            result["counts"] = {
                name: _named(name, worker.ask, {"do": "counts"}, seconds) for name, worker in workers.items()
            }
        # two cores of a machine differ by more than two runs on one, which would be taken for a change
        core = None if case.get("threads", 1) > 1 or case.get("device", "cpu").startswith("cuda") else idlest_core()
        if core is not None:
            for name, worker in workers.items():
                _named(name, worker.ask, {"do": "keep to core", "core": core})
        return result | _in_turn(workers)
    finally:
        for worker in workers.values():
            worker.end()


def _in_turn(workers: Mapping[str, WorkerProcess]) -> dict[str, Any]:
    calibrations = {
        name: _named(name, worker.ask, {"do": "calibrate", "seconds": SAMPLE_SECONDS})
        for name, worker in workers.items()
    }
    # the same number of calls on both sides: what a sample costs besides its calls is then the same
    iterations = max(calibration["iterations"] for calibration in calibrations.values())
    seconds = sum(calibration["seconds"] for calibration in calibrations.values()) * iterations
    count = max(LEAST_SAMPLES, min(SAMPLES, int(SAMPLING_SECONDS / seconds)))
    request = {"do": "sample", "iterations": iterations}
    taken: list[SamplePair] = []

    def take(flipped: bool) -> SamplePair:
        order = list(workers)[:: -1 if flipped else 1]
        return SamplePair({name: _named(name, workers[name].ask, request) for name in order}, flipped)

    take(False)  # the next one's first sample then follows one of its own side, as in all pairs
    # where samples are set apart others take their place, as many as were wanted at first
    while len(taken) < count or (len(_unthrottled(taken)) < count and len(taken) < 2 * count):
        taken.append(take(flipped=len(taken) % 2 == 0))
    kept = _unthrottled(taken)
    clocks = [sample["clock"] for pair in taken for sample in pair.sides.values() if sample["clock"]]
    if len(kept) < min(LEAST_SAMPLES, count):
        raise NoData(
            f"the GPU ran at {min(clocks):.0f} to {max(clocks):.0f} MHz, and in only {len(kept)} of {len(taken)} pairs"
            f" of samples at {THROTTLED:.0%} of the highest on both sides: let it cool, or lower its power limit"
        )
    result = {name: [pair.sides[name]["seconds"] for pair in kept] for name in ("base", "head")}
    flipped = [pair.flipped for pair in kept]
    on_gpu = {"clocks": [min(clocks), max(clocks)], "throttled": len(taken) - len(kept)} if clocks else {}
    return {
        **result,
        **on_gpu,
        "flipped": flipped,
        "iterations": iterations,
        "log_ratio": log_ratio(**result, flipped=flipped),
    }


def log_ratio(base: Sequence[float], head: Sequence[float], flipped: Sequence[bool]) -> float:
    """Return the logarithm of how many times longer the head took, of the samples of a process pair."""
    # a clock that jumps can give a sample of no or negative length
    lasting = [each for each in zip(base, head, flipped, strict=True) if each[0] > 0 and each[1] > 0]
    if not lasting:
        raise NoData("no sample has a positive length: the clock jumped")
    return balanced_median([log(h / b) for b, h, _ in lasting], [flip for *_, flip in lasting])


def _unthrottled(taken: Sequence[SamplePair]) -> list[SamplePair]:
    """Return the pairs of samples in which neither side ran at a clock far below the highest that was seen.

    A clock rate of 0 could not be read.
    """
    least = THROTTLED * max((sample["clock"] for pair in taken for sample in pair.sides.values()), default=0.0)
    return [pair for pair in taken if not any(0 < sample["clock"] < least for sample in pair.sides.values())]


def _named(name: str, call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except NoData as error:
        raise NoData(f"{name}: {error}") from None
