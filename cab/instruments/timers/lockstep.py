"""Two calls in turn, sample by sample: their ratio holds still where the machine's speed drifts. Imports no torch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from typing import Any

from cab.instruments.timers.own import MIN_SAMPLE_SECONDS, Timing, garbage_collector_off, warm_up

SAMPLES = 24  # of each call
SECONDS = 0.4  # of all samples; slow calls get fewer
LEAST_SAMPLES = 4


@dataclass
class PairedTiming:
    """The seconds of both calls, sample by sample: the n-th of one was taken beside the n-th of the other.

    `flipped` says of each pair whether the second came first. The first pair of all is left out: in the others, what
    comes first follows a sample of its own, and may find its data in the caches.
    """

    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    flipped: list[bool] = field(default_factory=list)
    iterations: tuple[int, int] = (1, 1)  # calls that one sample is the mean of


def in_turn(
    first: Callable[[], Any], second: Callable[[], Any], clock: Callable[[], int] = time.perf_counter_ns
) -> PairedTiming:
    """Time two calls, which have run once before, in pairs of samples; the order in a pair is flipped each time."""

    def mean_duration(call: Callable[[], Any], iterations: int) -> float:
        start = clock()
        for _ in repeat(None, iterations):
            call()
        return (clock() - start) / iterations / 1e9

    timing, calls = PairedTiming(), (first, second)
    with garbage_collector_off():
        typical = [max(median(warm_up(Timing(), lambda call=call: mean_duration(call, 1))), 1e-9) for call in calls]  # type: ignore[misc]
        counts = [max(1, round(MIN_SAMPLE_SECONDS / seconds)) for seconds in typical]
        timing.iterations = (counts[0], counts[1])
        pair_seconds = sum(seconds * count for seconds, count in zip(typical, counts, strict=True))
        samples = (timing.first, timing.second)
        wanted = max(LEAST_SAMPLES, min(SAMPLES, int(SECONDS / pair_seconds)))
        timing.flipped = [number % 2 == 0 for number in range(wanted)]
        for flipped in (False, *timing.flipped):
            for which in (1, 0) if flipped else (0, 1):
                samples[which].append(mean_duration(calls[which], counts[which]))
    for of_call in samples:
        del of_call[0]
    return timing
