"""The frontier: the longest length whose pass fits a memory limit, or a time limit.

It is found by search. Each length is tried in a process of its own: a probe.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import sqrt
from statistics import median
from typing import Any

from cab import Meter, Reading, UsageError
from cab.contracts.case import Case

# (case, whether to pin the allocator) -> status, reason, what `measure` returned
Probe = Callable[[Case, bool], tuple[str, str, Any]]
LIMITS = {"longest_in_memory": "memory_limit", "longest_in_time": "latency_limit"}
FIRST_LENGTH, SHORTEST_LENGTH = 1024, 16  # tokens
LENGTH_STEP = 16  # lengths are multiples of it
RESOLUTION = 1.05  # the search ends when the shortest length that fails is at most this times the longest that fits


class Frontier(Meter):
    """The longest n up to the case's (`seq_len`) whose pass stays within `memory_limit`, or within `latency_limit`."""

    metrics = {"longest_in_memory": ("tokens", True), "longest_in_time": ("tokens", True)}
    method = (
        "doubling, then bisection until the bracket is within 5 %; each length in a fresh process: in memory, the pass "
        "runs under a limit on the process (CUDA: on its allocator); in time, by one process's median; m follows n; "
        "the interval is the bracket: the longest that fits, the shortest that does not"
    )
    version = 2  # since 2 the check before the pass is not under the limit, and decoding prefills in chunks
    environment = True
    searches = True
    asks = {"memory_limit": None, "latency_limit": None}

    def applies(self, case: Any) -> dict[str, tuple[str, bool | None]]:
        """Return the metrics whose limit the case has; `UsageError` where it has none."""
        asked = {name: metric for name, metric in self.metrics.items() if LIMITS[name] in case.settings}
        if not asked:
            raise UsageError("meters=[frontier] needs memory_limit=SIZE (as in 8GiB) or latency_limit=SECONDS, or both")
        return asked

    def search(self, case: Any, probe: Probe) -> dict[str, dict[str, Any]]:
        """Search for each limit separately, because a pinned allocator takes more memory."""
        results = {}
        for metric in self.applies(case):
            key = LIMITS[metric]
            settings = {name: value for name, value in case.settings.items() if name not in LIMITS.values()}
            settings[key] = case.settings[key]
            results[metric] = _longest_length(replace(case, settings=settings), probe)
        return results

    def measure(self, workload: Any, case: Any) -> dict[str, dict[str, Any]]:
        """Probe one length: time its pass, or run it once to see whether it fits."""
        if "latency_limit" in case.settings:
            from cab.instruments import timers

            if not workload.has_run:
                workload.run()
            timing = timers.TIMERS["own"](workload.run, workload.device)
            return {"probe": {"samples": [sample / workload.calls for sample in timing.samples]}}
        workload.run()
        return {"probe": {"samples": []}}

    def reduce(self, metric: str, processes: Sequence[dict[str, Any]]) -> Reading:
        """Return the longest length that fits; its interval is the bracket."""
        result = processes[-1]
        fits, fails = int(result["samples"][0]), result["fails"]
        probes = len(result["probes"])
        if fails is None:
            return Reading(fits, fits, None, probes, probes, False, f"fits at {fits}, the longest that was asked for")
        converged = fits > 0 and fails <= RESOLUTION * fits
        return Reading(fits, fits, fails, probes, probes, converged, f"fits at {fits}, not at {fails}: {result['why']}")


def _longest_length(case: Case, probe: Probe) -> dict[str, Any]:
    """Return the longest length that fits and the shortest that fails, or the status that ended the search."""
    timed = "latency_limit" in case.settings
    probes: dict[str, str] = {}
    fails_because, fits, fails = "", 0, case.n + 1
    n = min(FIRST_LENGTH, case.n)
    while True:
        status, reason, result = probe(_with_length(case, n), timed)
        if status == "ok" and timed:
            seconds = median(result["probe"]["samples"])
            n_fits, reason = seconds <= case.settings["latency_limit"], f"{seconds:.3g} s"
        elif status in ("ok", "oom") or (status == "timeout" and timed):
            n_fits, reason = status == "ok", "" if status == "ok" else status
        else:
            return {"status": status, "reason": f"at n={n}: {reason}"}
        probes[str(n)] = reason or status
        if n_fits:
            fits = n
        else:
            fails, fails_because = n, reason
        following = _next_length(fits, fails, case.n)
        if following is None:
            shortest_failing = fails if fails <= case.n else None
            return {"samples": [fits], "fails": shortest_failing, "why": fails_because, "probes": probes}
        n = following


def _next_length(fits: int, fails: int, longest: int) -> int | None:
    """Return the length to probe next: doubled, halved, or the geometric mean; None where the bracket is narrow.

    `fits` is 0 before any length has fitted, and `fails` is above `longest` before any has failed.
    """
    if fits >= longest or (not fits and fails <= SHORTEST_LENGTH):
        return None
    if fails > longest:
        return min(2 * fits, longest)
    if not fits:
        return max(SHORTEST_LENGTH, fails // 2 // LENGTH_STEP * LENGTH_STEP)
    middle = round(sqrt(fits * fails) / LENGTH_STEP) * LENGTH_STEP
    return middle if fails > RESOLUTION * fits and fits < middle < fails else None


def _with_length(case: Case, n: int) -> Case:
    """Change n, and m in proportion."""
    return replace(case, n=n, m=max(1, round(case.m * n / case.n)))
