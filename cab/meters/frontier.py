"""The frontier: the longest length whose pass fits a memory, or a time; found by search, each probe a process."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from statistics import median
from typing import Any

from cab import Meter, Reading, UsageError
from cab.contracts.case import Case

Probe = Callable[[Case, bool], tuple[str, str, Any]]  # a case, pinned or not -> status, reason, what `measure` gave
LIMITS = {"longest_in_memory": "memory_limit", "longest_in_time": "latency_limit"}
START, LEAST = 1024, 16  # tokens: of the first probe, and of the shortest
GRAIN = 16  # lengths are multiples of it
RESOLUTION = 1.05  # the search ends when the shortest that does not fit is at most so many times the longest that does


class Frontier(Meter):
    """The longest n up to the case's (`seq_len`) whose pass stays within `memory_limit`, or within `latency_limit`."""

    metrics = {"longest_in_memory": ("tokens", True), "longest_in_time": ("tokens", True)}
    method = (
        "doubling, then bisection until the bracket is within 5 %; each length in a fresh process: in memory, the pass "
        "runs under a limit on the process (CUDA: on its allocator); in time, by one process's median; m follows n; "
        "the interval is the bracket: the longest that fits, the shortest that does not"
    )
    version = 2  # 2: what is compared before stands outside the limit, and decoding reads in pieces
    environment = True
    searches = True
    asks = {"memory_limit": None, "latency_limit": None}

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Each limit that is given has its metric."""
        asked = {name: about for name, about in self.metrics.items() if LIMITS[name] in case.settings}
        if not asked:
            raise UsageError("meters=[frontier] needs memory_limit=SIZE (as in 8GiB) or latency_limit=SECONDS, or both")
        return asked

    def search(self, case: Any, probe: Probe) -> dict[str, dict[str, Any]]:
        """Search for each limit apart, since a pinned allocator takes more memory than a free one."""
        found = {}
        for metric in self.applies(case):
            key = LIMITS[metric]
            others = {name: value for name, value in case.settings.items() if name not in LIMITS.values()}
            found[metric] = _longest(replace(case, settings={**others, key: case.settings[key]}), probe)
        return found

    def measure(self, call: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Probe one length: time its pass, or see whether it gets through."""
        if "latency_limit" in case.settings:
            from cab.instruments import timers

            if not call.has_run:
                call.run()
            timing = timers.TIMERS["own"](call.run, call.device)
            return {"probe": {"samples": [sample / call.calls for sample in timing.samples]}}
        call.run()
        return {"probe": {"samples": []}}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Take the longest that fits; its interval is the bracket."""
        given = processes[-1]
        fits, fails = int(given["samples"][0]), given["fails"]
        tried = len(given["probes"])
        if fails is None:
            return Reading(fits, fits, None, tried, tried, False, f"fits at {fits}, the longest that was asked for")
        met = fits > 0 and fails <= RESOLUTION * fits
        return Reading(fits, fits, fails, tried, tried, met, f"fits at {fits}, not at {fails}: {given['why']}")


def _longest(case: Case, probe: Probe) -> dict[str, Any]:
    """Return the longest length that fits, and the shortest that does not; or the status that ended the search."""
    probes: dict[str, str] = {}
    why, fits, fails = "", 0, case.n + 1
    n = min(START, case.n)
    while True:
        status, reason, given = probe(_at(case, n), "latency_limit" in case.settings)
        if status == "ok" and "latency_limit" in case.settings:
            seconds = median(given["probe"]["samples"])
            good, reason = seconds <= case.settings["latency_limit"], f"{seconds:.3g} s"
        elif status in ("ok", "oom") or (status == "timeout" and "latency_limit" in case.settings):
            good, reason = status == "ok", "" if status == "ok" else status
        else:
            return {"status": status, "reason": f"at n={n}: {reason}"}
        probes[str(n)] = reason or status
        if good:
            fits = n
        else:
            fails, why = n, reason
        following = _next(fits, fails, case.n)
        if following is None:
            return {"samples": [fits], "fails": fails if fails <= case.n else None, "why": why, "probes": probes}
        n = following


def _next(fits: int, fails: int, cap: int) -> int | None:
    """Return the length to probe next: twice as long, half as long, or between; None where the bracket is narrow."""
    if fits >= cap or (not fits and fails <= LEAST):
        return None
    if fails > cap:
        return min(2 * fits, cap)
    if not fits:
        return max(LEAST, fails // 2 // GRAIN * GRAIN)
    between = round(sqrt(fits * fails) / GRAIN) * GRAIN
    return between if fails > RESOLUTION * fits and fits < between < fails else None


def _at(case: Case, n: int) -> Case:
    return replace(case, n=n, m=max(1, round(case.m * n / case.n)))
