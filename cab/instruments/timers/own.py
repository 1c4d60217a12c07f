"""This project's timer on the CPU, and its warm-up and stop rules. Imports no torch.

It warms up until the duration of the call is steady, and samples until the median is known precisely enough.
"""

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

WARM_UP_SECONDS = (0.010, 0.040)  # least, most
WINDOW_CALLS = 5
STEADY = 0.03  # the call is steady when the medians of two successive windows differ by at most this share
MIN_SAMPLE_SECONDS = 0.002  # a short call is repeated until a sample lasts as long
SAMPLING_SECONDS = (0.025, 0.070)  # least, most
SLOW_SAMPLING_SECONDS = 3.0  # most while there are fewer than MIN_SAMPLES
MIN_SAMPLES, MAX_SAMPLES = 2, 200  # two are enough for slow calls: the interval is over processes, not samples
PRECISION = 0.01  # half the width of the median's interval, as a share of the median


@dataclass
class Timing:
    """The durations of a call in seconds, and how they were taken."""

    samples: list[float] = field(default_factory=list)
    iterations: int = 1  # calls that one sample is the mean of
    warm_up: int = 0  # calls
    steady: bool = False  # whether the warm-up ended because the call was steady
    stop: str = ""  # the stop rule: precision, samples or time; of another timer, its name
    clocks: list[float] = field(default_factory=list)  # clock rates of a GPU in MHz: the lowest and the highest seen
    throttled: list[float] = field(default_factory=list)  # samples taken at a lower clock rate, not among `samples`


def on_cpu(call: Callable[[], Any], clock: Callable[[], int] = time.perf_counter_ns) -> Timing:
    """Time `call`, which has run once before, by the wall clock (in nanoseconds), without garbage collection.

    A call that takes longer than the whole warm-up needs none: its first duration is a sample.
    """
    timing = Timing()
    with garbage_collector_off():
        durations = warm_up(timing, lambda: _mean_duration(call, 1, clock))
        if durations[0] >= WARM_UP_SECONDS[1]:
            timing.samples, timing.warm_up = durations, 0
        timing.iterations = max(1, ceil(MIN_SAMPLE_SECONDS / max(median(durations[-WINDOW_CALLS:]), 1e-9)))
        while not stop_rule_holds(timing):
            timing.samples.append(_mean_duration(call, timing.iterations, clock))
    return timing


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Disable Python's garbage collector, so that neither time nor memory depends on when it would run."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def warm_up(timing: Timing, time_call: Callable[[], float]) -> list[float]:
    """Call until the durations are steady and `WARM_UP_SECONDS` have passed; return the durations."""
    durations: list[float] = []
    least, most = WARM_UP_SECONDS
    while True:
        durations.append(time_call())
        timing.warm_up += 1
        seconds = sum(durations)
        if len(durations) >= 2 * WINDOW_CALLS:
            last, previous = median(durations[-WINDOW_CALLS:]), median(durations[-2 * WINDOW_CALLS : -WINDOW_CALLS])
            timing.steady = abs(last - previous) <= STEADY * previous
        if seconds >= most or (timing.steady and seconds >= least):
            return durations


def stop_rule_holds(timing: Timing) -> bool:
    """Whether one of the stop rules holds for the samples; writes the rule's name into `timing.stop`."""
    count = len(timing.samples)
    seconds = (sum(timing.samples) + sum(timing.throttled)) * timing.iterations
    least, most = SAMPLING_SECONDS
    if seconds >= least and half_width_of_median(timing.samples) <= PRECISION:
        timing.stop = "precision"
    elif count + len(timing.throttled) >= MAX_SAMPLES:
        timing.stop = "samples"
    elif count and (seconds >= SLOW_SAMPLING_SECONDS or (count >= MIN_SAMPLES and seconds >= most)):
        timing.stop = "time"
    return bool(timing.stop)


def _mean_duration(call: Callable[[], Any], iterations: int, clock: Callable[[], int]) -> float:
    """Return the mean duration in seconds of calls in succession."""
    start = clock()
    for _ in repeat(None, iterations):
        call()
    return (clock() - start) / iterations / 1e9
