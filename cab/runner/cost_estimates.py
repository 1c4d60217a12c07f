"""How long a plan would take and what would not fit: forecasts of a child, corrected by past rows. Imports no torch."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cab import environment
from cab.contracts.case import Case
from cab.errors import UsageError
from cab.planning.plan import Item, Plan
from cab.runner.entries import finished
from cab.runner.fork_client import Server
from cab.store.store import Store

CHILD = 0.1  # seconds that a child costs beside what it measures
TIMED = 0.15  # seconds of warm-up and samples of one timing process, at least
CALLS = 15  # calls of a timing process whose call is slow
SHARE = 0.1  # of the rate of a large product that an attention's products reach, where no past row says better
LEAST_SHARE = 0.01  # a past row below this was short: its time was not its operations'
SECONDS = 600.0


@dataclass(frozen=True)
class Estimate:
    """What one case is expected to take. `basis` says what it rests on; None where nothing is known."""

    case: Case
    seconds: float | None  # of everything that is still to be run
    bytes: float | None  # peak of one pass
    basis: str
    fits: bool = True


def estimate(plan: Plan, store: Store, data: Path) -> list[Estimate]:
    """Estimate what is still to be run of each case; a child counts on meta tensors, past latencies set the pace."""
    items: dict[str, list[Item]] = defaultdict(list)
    for item in plan.items:
        if not item.refusal:
            items[item.case.id].append(item)
    cases = [case for case in plan.cases if case.id in items]
    threads = environment.usable_cores()
    with Server() as server:
        job = {"kind": "forecast", "cases": [c.question() for c in cases], "data": str(data), "threads": threads}
        ending = server.run(job, SECONDS, None)
    if ending.result is None or "ok" not in ending.result:
        why = ending.result["reason"] if ending.result else f"the child ended: {ending.why}"
        raise UsageError(f"nothing could be estimated: {why}")
    known, rate = ending.result["ok"]["cases"], ending.result["ok"]["rate"]
    paces = _paces(store, rate)
    return [_of(case, items[case.id], store, known[case.id], rate, paces) for case in cases]


def _of(
    case: Case, items: list[Item], store: Store, known: dict[str, Any], rate: float, paces: dict[Any, float]
) -> Estimate:
    if "flops" not in known:
        return Estimate(case, None, None, known["reason"])
    pace = paces.get(_kind(case))
    if pace is None and case.device != "cpu":
        return Estimate(case, None, None, f"no past row of this kind on {case.device}")
    call = known["flops"] / (rate * (SHARE if pace is None else pace))
    total = 0.0
    for item in items:
        entry = store.read(item.file)
        if finished(entry, item):
            continue
        left = item.processes - (len(entry["processes"]) if entry else 0)
        if item.trains:
            recipe = case.settings["training"]
            before = (recipe.get("pretrain_steps") or recipe["steps"]) if recipe.get("pretrain") else 0
            total += CHILD + call * (recipe["steps"] + before)
        elif item.meter == "latency":
            total += left * (CHILD + max(TIMED, CALLS * call))
        else:
            total += left * (CHILD + 4 * call * item.hosted)
    limits = [item.memory_limit for item in items if item.memory_limit]
    room = min([*limits, *([environment.available_memory()] if case.device == "cpu" else [])], default=float("inf"))
    basis = "meta tensors" + (", past rows" if pace is not None else ", a guessed pace")
    return Estimate(case, total, known["bytes"], basis, known["bytes"] < room)


def _paces(store: Store, rate: float) -> dict[Any, float]:
    """Return, per mechanism, pattern, level and pass, the best share of the machine's rate that past timings reached.

    The best, because a short case's time is mostly not its operations and says nothing of a long one's.
    """
    flops: dict[str, float] = {}
    times: dict[str, tuple[Case, float]] = {}
    host = environment.identity("cpu", None, False)["host"]
    if store.folder.is_dir():
        for _, entry in store.entries():
            if entry["environment"].get("host") != host:
                continue
            for name, metric in entry["metrics"].items():
                if metric["status"] == "ok" and name == "flops_counted":
                    flops[entry["case_id"]] = metric["value"]
                elif metric["status"] == "ok" and name == "latency":
                    times[entry["case_id"]] = (Case.of(entry["case"]), metric["value"])
    shares: dict[Any, list[float]] = defaultdict(list)
    for name, (case, seconds) in times.items():
        if flops.get(name):
            shares[_kind(case)].append(flops[name] / seconds / rate)
    return {kind: max(LEAST_SHARE, *values) for kind, values in shares.items()}


def _kind(case: Case) -> tuple[str, ...]:
    threads = str(case.settings.get("threads"))
    return (case.mechanism, case.pattern, case.backend, case.level, case.pass_, case.dtype, case.device, threads)
