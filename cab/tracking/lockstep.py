"""A pair of fresh worker processes, and single samples of both in turn, the order flipped each time."""

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from statistics import median
from typing import Any

from cab.tracking.processes import REQUEST_SECONDS, Servers, WorkerProcess
from cab.tracking.sides import NoData, Side

PROCEDURE = 2  # of a pair; what was measured by another one is not mixed with it
SAMPLE_SECONDS = 0.004
SAMPLES = 20  # of each side
SAMPLING_SECONDS = 0.8  # most, both sides together; slow cases get fewer samples
LEAST_SAMPLES = 6
THROTTLED = 0.9  # of the highest clock rate of a pair: what is sampled at a lower one is set apart
CALLGRIND_SECONDS = 1200.0  # most that one request may take with instructions counted


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

    Returns `base` and `head` (seconds of one call, sample by sample), `log_ratio` (the median over the samples of
    log head - log base) and with `first` `counts` and `versions` of both sides. On a GPU also `clocks` (the lowest and
    the highest clock rate in MHz) and `throttled` (how many samples were set apart for a lower clock). `NoData` names
    the side that failed.
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
        result |= _in_turn(workers)
        return result
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
    taken: list[dict[str, dict[str, float]]] = []  # side -> seconds and clock rate, pair by pair
    order = list(workers)
    # where samples are set apart others take their place, as many as were wanted at first
    while len(taken) < count or (len(_unthrottled(taken)) < count and len(taken) < 2 * count):
        request = {"do": "sample", "iterations": iterations}
        taken.append({name: _named(name, workers[name].ask, request) for name in order})
        order.reverse()
    kept = _unthrottled(taken)
    clocks = [sample["clock"] for pair in taken for sample in pair.values() if sample["clock"]]
    if len(kept) < min(LEAST_SAMPLES, count):
        raise NoData(
            f"the GPU ran at {min(clocks):.0f} to {max(clocks):.0f} MHz, and in only {len(kept)} of {len(taken)} pairs"
            f" of samples at {THROTTLED:.0%} of the highest on both sides: let it cool, or lower its power limit"
        )
    # a clock that jumps can give a sample of no or negative length
    seconds_of = [(pair["base"]["seconds"], pair["head"]["seconds"]) for pair in kept]
    ratios = [log(head / base) for base, head in seconds_of if base > 0 and head > 0]
    if not ratios:
        raise NoData("no sample has a positive length: the clock jumped")
    result = {name: [pair[name]["seconds"] for pair in kept] for name in workers}
    on_gpu = {"clocks": [min(clocks), max(clocks)], "throttled": len(taken) - len(kept)} if clocks else {}
    return {**result, **on_gpu, "iterations": iterations, "log_ratio": median(ratios)}


def _unthrottled(taken: Sequence[Mapping[str, Mapping[str, float]]]) -> list[Mapping[str, Mapping[str, float]]]:
    """Return the pairs of samples in which neither side ran at a clock far below the highest that was seen.

    A clock rate of 0 could not be read.
    """
    least = THROTTLED * max((sample["clock"] for pair in taken for sample in pair.values()), default=0.0)
    return [pair for pair in taken if not any(0 < sample["clock"] < least for sample in pair.values())]


def _named(name: str, call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except NoData as error:
        raise NoData(f"{name}: {error}") from None
