"""One value with its interval from those of several seeds."""

from math import hypot
from statistics import mean

from cab.intervals import student

Reading = tuple[float, float | None, float | None]  # value, low end, high end


def over_seeds(readings: list[Reading]) -> Reading:
    """Return the mean over the seeds, with its 95 % interval.

    Two errors add up: that of the seeds (Student's t over their values), and that within a seed (test examples,
    processes). The second is not divided by the number of seeds: all share one test set. So the interval of several
    seeds may well be wider than that of one, which is silent about what another seed would have given.
    """
    values = [value for value, _, _ in readings]
    if len(values) == 1:
        return readings[0]
    middle, spread = mean(values), student(values)
    assert spread is not None  # two values or more
    between = spread[1] - middle
    below = [value - low for value, low, _ in readings if low is not None]
    above = [high - value for value, _, high in readings if high is not None]
    if not between and not below:
        return middle, None, None  # exact: a count that no seed changes
    return middle, middle - hypot(between, mean(below or [0.0])), middle + hypot(between, mean(above or [0.0]))
