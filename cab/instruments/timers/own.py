"""Our own timer: warm up until the call is steady, sample until the median is known. Imports no torch."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from math import ceil
from statistics import median
from typing import Any

from cab.intervals import half_width_of_median

WARM_UP = (0.010, 0.040)  # seconds: at least, at most
STEADY, WINDOW = 0.03, 5  # two windows of calls whose medians differ by less are steady
SAMPLE = 0.002  # seconds that one sample lasts at least
BUDGET = (0.025, 0.070, 3.0)  # seconds of samples: at least, at most, and at most while there are fewer than FEWEST
FEWEST, MOST = 2, 200  # samples; the interval counts processes, so that of slow calls a few are enough
PRECISION = 0.01  # of the median, half the width of its interval


@dataclass
class Timing:
    """The durations of a call in seconds, and how they came about."""

    samples: list[float] = field(default_factory=list)
    iterations: int = 1  # calls that one sample is the mean of
    warm_up: int = 0  # calls
    steady: bool = False  # whether the warm-up ended because the call was
    stop: str = ""  # precision, samples or time; of another timer, its name
    clocks: list[float] = field(default_factory=list)  # of a GPU, in MHz: the lowest and the highest seen
    throttled: list[float] = field(default_factory=list)  # samples set apart, taken at a lower clock than the others


def on_cpu(call: Callable[[], Any], clock: Callable[[], int] = time.perf_counter_ns) -> Timing:
    """Time `call`, which has run once, by the wall clock (in nanoseconds), with the garbage collector at rest.

    A call that takes longer than the whole warm-up needs none: its first is a sample.
    """
    timing = Timing()
    with collector_at_rest():
        durations = warm(timing, lambda: _sample(call, 1, clock))
        if durations[0] >= WARM_UP[1]:
            timing.samples, timing.warm_up = durations, 0
        timing.iterations = max(1, ceil(SAMPLE / max(median(durations[-WINDOW:]), 1e-9)))
        while not enough(timing):
            timing.samples.append(_sample(call, timing.iterations, clock))
    return timing


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """Collect no garbage meanwhile: neither time nor memory then depends on when it would have been."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def warm(timing: Timing, sample: Callable[[], float]) -> list[float]:
    """Call until the durations are steady and `WARM_UP` has passed; return them."""
    durations: list[float] = []
    least, most = WARM_UP
    while True:
        durations.append(sample())
        timing.warm_up += 1
        spent = sum(durations)
        if len(durations) >= 2 * WINDOW:
            late, early = median(durations[-WINDOW:]), median(durations[-2 * WINDOW : -WINDOW])
            timing.steady = abs(late - early) <= STEADY * early
        if spent >= most or (timing.steady and spent >= least):
            return durations


def enough(timing: Timing) -> bool:
    """Whether the samples suffice; notes the rule that says so."""
    count = len(timing.samples)
    spent = (sum(timing.samples) + sum(timing.throttled)) * timing.iterations
    least, most, slow = BUDGET
    if spent >= least and half_width_of_median(timing.samples) <= PRECISION:
        timing.stop = "precision"
    elif count + len(timing.throttled) >= MOST:
        timing.stop = "samples"
    elif count and (spent >= slow or (count >= FEWEST and spent >= most)):
        timing.stop = "time"
    return bool(timing.stop)


def _sample(call: Callable[[], Any], iterations: int, clock: Callable[[], int]) -> float:
    start = clock()
    for _ in repeat(None, iterations):
        call()
    return (clock() - start) / iterations / 1e9
