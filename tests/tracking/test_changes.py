"""Change points: what was planted is found at its place, and noise alone is left alone."""

import sys

import numpy as np
import pytest

from cab.errors import UsageError
from cab.tracking.changes import LEAST_AFTER, Change, changes_of

NOISE = 0.02


def noisy(levels: "np.ndarray", seed: int = 0) -> list[float]:
    return list(0.002 * levels * np.exp(np.random.default_rng(seed).normal(0, NOISE, len(levels))))


def steps(*shares: tuple[int, float], count: int = 60) -> "np.ndarray":
    levels = np.ones(count)
    for at, share in shares:
        levels[at:] *= 1 + share
    return levels


def test_noise_alone_hardly_ever_changes() -> None:
    false = [len(changes_of(noisy(np.ones(60), seed))) for seed in range(100)]
    assert sum(map(bool, false)) <= 3


@pytest.mark.parametrize("share", (0.1, -0.1))
def test_a_planted_step_is_found_at_its_commit(share: float) -> None:
    found = [changes_of(noisy(steps((40, share)), seed)) for seed in range(20)]
    right = [
        each for each in found if len(each) == 1 and abs(each[0].start - 40) <= 1 and abs(each[0].share - share) < 0.03
    ]
    assert len(right) >= 18


def test_three_points_after_a_step_are_enough_and_two_are_not() -> None:
    values = noisy(steps((40, 0.2), count=40 + LEAST_AFTER))
    assert [change.start for change in changes_of(values)] == [40]
    assert changes_of(values[:-1]) == []


def test_one_outlier_is_no_step() -> None:
    values = noisy(np.ones(60))
    values[57] *= 1.5
    assert changes_of(values) == []


def test_an_increase_that_is_taken_back_went_away() -> None:
    up, down = changes_of(noisy(steps((30, 0.2), (60, -1 / 6), count=90)))
    assert (up.start, up.recovered) == (30, 60) and down.share < 0 and down.recovered is None
    up, again = changes_of(noisy(steps((30, 0.2), (60, 0.2), count=90)))
    assert up.recovered is None and again.recovered is None


def test_a_slow_drift_is_one_drift_and_no_staircase() -> None:
    for seed in range(5):
        (drift,) = changes_of(noisy(np.linspace(1, 1.2, 200), seed))
        assert drift.kind == "drift" and drift.share == pytest.approx(0.2, abs=0.03)


def test_counts_change_without_noise_at_once_and_small_steps_add_up() -> None:
    assert changes_of([100.0, 100, 101], exact=True) == [Change("step", 2, 2, pytest.approx(0.01), 0.0)]
    assert [change.start for change in changes_of([1000.0, 1004, 1008], exact=True)] == [2]
    up, down = changes_of([100.0, 110, 100], exact=True)
    assert up.recovered == 2 and down.share < 0


def test_short_series_and_constant_ones_have_no_changes() -> None:
    assert changes_of([1.0]) == changes_of([1.0] * 50) == changes_of([], exact=True) == []


def test_without_ruptures_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ruptures", None)
    with pytest.raises(UsageError, match=r"pip install 'cab-bench\[track\]'"):
        changes_of([1.0] * 10)
