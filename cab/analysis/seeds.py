"""Means over seeds, with intervals."""

from math import hypot
from statistics import mean

from cab.intervals import student

# a spread below this share of the mean is rounding: the same numbers, added in another order
ROUNDING = 1e-9
ValueAndInterval = tuple[float, float | None, float | None]  # value, low end, high end; no ends where it is exact


def mean_over_seeds(values_and_intervals: list[ValueAndInterval]) -> ValueAndInterval:
    """Return the mean over the seeds with its 95 % interval. One seed is returned as it is.

    The half-width is the root of the sum of two squares:

    - the half-width of Student's t interval over the values of the seeds,
    - the mean half-width within a seed, which comes from test examples or processes. It is not divided by the number
      of seeds, because all seeds share one test set.

    So the interval of several seeds may be wider than that of one. One seed's interval does not cover what another
    seed would have given.
    """
    values = [value for value, _, _ in values_and_intervals]
    if len(values) == 1:
        return values_and_intervals[0]
    mean_value, between_seeds = mean(values), 0.0
    if max(values) - min(values) > ROUNDING * abs(mean_value):
        interval = student(values)
        assert interval is not None  # two values or more
        between_seeds = interval[1] - mean_value
    below = [value - low for value, low, _ in values_and_intervals if low is not None]
    above = [high - value for value, _, high in values_and_intervals if high is not None]
    if not between_seeds and not below:
        return mean_value, None, None  # a count, which no seed changes
    return (
        mean_value,
        mean_value - hypot(between_seeds, mean(below or [0.0])),
        mean_value + hypot(between_seeds, mean(above or [0.0])),
    )
