"""Each interval against published values."""

import math

import pytest

from cab import intervals
from cab.intervals import (
    balanced_median,
    half_width_of_median,
    student,
    student_of_logs,
    student_of_ratio,
    student_quantile,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    # Brown, Cai and DasGupta (2001) and R's binom::binom.wilson
    [(8, 10, 0.4901625, 0.9433178), (0, 10, 0.0, 0.2775328), (10, 10, 0.7224672, 1.0), (50, 100, 0.4038315, 0.5961685)],
)
def test_wilson_gives_the_published_intervals(successes: int, total: int, low: float, high: float) -> None:
    assert wilson(successes, total) == pytest.approx((low, high), abs=1e-6)


def test_student_gives_the_textbook_interval() -> None:
    assert student([1, 2, 3, 4, 5]) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-5)  # t(4) = 2.776445
    logs = student_of_logs([math.exp(v) for v in (1, 2, 3, 4, 5)])
    assert logs == pytest.approx((math.exp(3 - 1.963243), math.exp(3 + 1.963243)), rel=1e-5)
    assert student([1.0]) is None and student_of_logs([1.0]) is None and student_of_ratio([1.0], [1.0]) is None


def test_the_quantiles_that_are_kept_are_scipys() -> None:
    from scipy.special import stdtrit

    for degrees in range(1, len(intervals._FIRST_QUANTILES) + 2):
        assert student_quantile(degrees) == pytest.approx(float(stdtrit(degrees, 0.975)), rel=1e-9)


def test_a_ratio_of_equal_counts_has_the_interval_of_the_mean() -> None:
    assert student_of_ratio([2, 4, 6, 8, 10], [2] * 5) == pytest.approx(student([1, 2, 3, 4, 5]))


def test_the_median_is_known_once_enough_samples_agree() -> None:
    assert half_width_of_median([1.0] * 5) == math.inf
    assert half_width_of_median([2.0] * 10) == 0
    # of 100: ranks 40 and 61 (counted from 1: 41, 61), z sqrt(100) / 2 = 9.8 around the middle
    assert half_width_of_median([100 + i for i in range(100)]) == pytest.approx((160 - 140) / 2 / 149.5)


def test_a_balanced_median_lies_between_two_orders_wherever_the_median_lies() -> None:
    values, flipped = [0.1, -0.1, 0.12, -0.08, 0.1], [True, False, True, False, True]
    assert balanced_median(values, flipped) == pytest.approx(0.005)
    assert balanced_median(values[:1], flipped[:1]) == 0.1  # one order alone
