"""Where a series of values changed: steps and slow drift, with a test of significance. numpy and ruptures are imported
when used.

Steps are proposed by ruptures' KernelCPD and tested here. The proposal has chosen the place where the two sides differ
most, so the test allows for that choice: the largest statistic over all places is compared with the largest one of each
permutation of the values (Matteson and James 2014, section 3.2, with the difference of means as statistic).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cab.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

LEAST_AFTER = 3  # points of each side of a step
SIGNIFICANCE = 0.01
PERMUTATIONS = 999
WINDOW = 60  # points of each side that a test takes
LEAST_SHARE = 0.02  # smaller steps are not reported
LEAST_DRIFT_POINTS = 20
EXACT_SHARE = 0.005  # of counts, as in a comparison


@dataclass(frozen=True)
class Change:
    """A change of a series: `share` is 0.05 where the values became 5 % larger."""

    kind: str  # "step" or "drift"
    start: int  # the first point with the new level; of a drift, its first point
    end: int  # of a drift, its last point; of a step the same as `start`
    share: float
    p: float
    recovered: int | None = None  # the first point of the step after which an increase is gone


def changes_of(values: Sequence[float], exact: bool = False) -> list[Change]:
    """Return the changes of a series of positive values, in order. `exact` is for counts, which have no noise.

    `UsageError` where ruptures is not installed.
    """
    import numpy as np

    if exact:
        return with_recoveries(values, _exact(values))
    array = np.log(np.asarray(values, dtype=float))
    return with_recoveries(values, sorted(_noisy(array, 0), key=lambda change: change.start))


def with_recoveries(values: Sequence[float], changes: Sequence[Change]) -> list[Change]:
    """Say of each increase at which later step at least half of it is gone ("went away")."""
    from dataclasses import replace
    from statistics import median

    starts = [change.start for change in changes] + [len(values)]
    told = []
    for number, change in enumerate(changes):
        before = median(values[(starts[number - 1] if number else 0) : change.start] or values[:1])
        if change.share > 0 and change.kind == "step":
            for later in range(number + 1, len(changes)):
                level = median(values[starts[later] : starts[later + 1]])
                if changes[later].kind == "step" and level <= before * (1 + change.share / 2):
                    change = replace(change, recovered=changes[later].start)
                    break
        told.append(change)
    return told


def _exact(values: Sequence[float]) -> list[Change]:
    changes, level = [], values[0] if values else 0.0
    for index, value in enumerate(values):
        share = value / level - 1 if level else float(value != 0)
        if abs(share) > EXACT_SHARE:  # against the last level that was told, so that small steps add up
            changes.append(Change("step", index, index, share, 0.0))
            level = value
    return changes


def _noisy(values: "np.ndarray[Any, Any]", offset: int) -> list[Change]:
    """Explain the values by a drift, or by their strongest step and what lies before and after it."""
    import numpy as np

    steps = _significant_steps(values)
    drift = _drift(values, offset)
    if drift and _bic_of_line(values) < _bic_of_steps(values, [step for step, _ in steps]):
        return [drift]
    if not steps:
        return []
    bounds = [0, *(step for step, _ in steps), len(values)]
    levels = [float(np.median(values[low:high])) for low, high in zip(bounds, bounds[1:], strict=False)]
    strongest = max(range(len(steps)), key=lambda i: abs(levels[i + 1] - levels[i]))
    at, p = steps[strongest]
    before, after = _noisy(values[:at], offset), _noisy(values[at:], offset + at)
    share = float(np.exp(levels[strongest + 1] - levels[strongest]) - 1)
    return [*before, Change("step", offset + at, offset + at, share, p), *after]


def _significant_steps(values: "np.ndarray[Any, Any]") -> list[tuple[int, float]]:
    """Return (index, p) of the steps that stay after the least significant ones have been taken out one by one."""
    import numpy as np

    steps = _proposed(values)
    while steps:
        bounds = [0, *steps, len(values)]
        tested = []
        for i in range(len(steps)):
            left, right = values[bounds[i] : steps[i]], values[steps[i] : bounds[i + 2]]
            small = abs(np.expm1(np.median(right) - np.median(left))) < LEAST_SHARE
            passed_over = small or _too_few(left, right)
            tested.append(1.0 if passed_over else _p_of_step(left[-WINDOW:], right[:WINDOW]))
        worst = max(range(len(steps)), key=lambda i: tested[i])
        if tested[worst] <= SIGNIFICANCE:
            return list(zip(steps, tested, strict=True))
        del steps[worst]
    return []


def _proposed(values: "np.ndarray[Any, Any]") -> list[int]:
    import numpy as np

    if len(values) < 2 * LEAST_AFTER:
        return []
    try:
        import ruptures
    except ImportError:
        raise UsageError(
            "change points need ruptures: pip install 'cab-bench[track]'; what was recorded is kept"
        ) from None
    # the noise from neighbours, which a step or a drift hardly moves
    noise = 1.4826 * float(np.median(np.abs(np.diff(values)))) / 2**0.5
    search = ruptures.KernelCPD(kernel="linear", min_size=LEAST_AFTER).fit(values.reshape(-1, 1))
    *steps, _ = search.predict(pen=3 * max(noise, 1e-4) ** 2 * np.log(len(values)))
    return [int(step) for step in steps]


def _too_few(left: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> bool:
    """Whether the shortest side that is accepted was filled up with a point of the other level."""
    import numpy as np

    middle = (np.median(left) + np.median(right)) / 2
    rises = np.median(right) > np.median(left)
    first_is_old, last_is_new = (right[0] > middle) != rises, (left[-1] > middle) == rises
    return bool(len(right) == LEAST_AFTER and first_is_old or len(left) == LEAST_AFTER and last_is_new)


def _p_of_step(left: "np.ndarray[Any, Any]", right: "np.ndarray[Any, Any]") -> float:
    import numpy as np

    together = np.concatenate([left, right])
    shuffled = np.random.default_rng(0).permuted(np.tile(together, (PERMUTATIONS, 1)), axis=1)
    reached = _largest_difference(shuffled) >= _largest_difference(together[None])[0] * (1 - 1e-9)
    return (1 + int(reached.sum())) / (1 + PERMUTATIONS)


def _largest_difference(rows: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return for each row the largest difference of means over all places, in units of its standard error."""
    import numpy as np

    count = rows.shape[1]
    before = np.arange(LEAST_AFTER, count - LEAST_AFTER + 1)
    centred = rows - rows.mean(1, keepdims=True)
    sums = centred.cumsum(1)[:, before - 1]
    # the sums of both sides are opposite, so the means differ by sum * count / (before * after)
    largest: np.ndarray[Any, Any] = (np.abs(sums) * np.sqrt(count / (before * (count - before)))).max(1)
    return largest


def _drift(values: "np.ndarray[Any, Any]", offset: int) -> Change | None:
    """Return a drift where Kendall's test finds a trend and the line rises or falls enough."""
    import numpy as np

    if len(values) < LEAST_DRIFT_POINTS:
        return None
    from scipy.stats import kendalltau

    places = np.arange(len(values))
    slope = float(np.polyfit(places, values, 1)[0])
    share = float(np.expm1(slope * (len(values) - 1)))
    p = float(kendalltau(places, values).pvalue)
    if p > SIGNIFICANCE or abs(share) < LEAST_SHARE:
        return None
    return Change("drift", offset, offset + len(values) - 1, share, p)


def _bic_of_line(values: "np.ndarray[Any, Any]") -> float:
    import numpy as np

    places = np.arange(len(values))
    return _bic(values - np.polyval(np.polyfit(places, values, 1), places), 2)


def _bic_of_steps(values: "np.ndarray[Any, Any]", steps: Sequence[int]) -> float:
    import numpy as np

    bounds = [0, *steps, len(values)]
    pieces = [values[low:high] for low, high in zip(bounds, bounds[1:], strict=False)]
    return _bic(np.concatenate([piece - piece.mean() for piece in pieces]), 2 * len(steps) + 1)


def _bic(residuals: "np.ndarray[Any, Any]", parameters: int) -> float:
    import numpy as np

    count = len(residuals)
    return float(count * np.log(max(float((residuals**2).mean()), 1e-12)) + parameters * np.log(count))
