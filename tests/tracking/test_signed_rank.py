"""The test, the estimate and the interval, on values whose answer is known and on simulated ones."""

from math import exp, log

import numpy as np
import pytest

from cab.tracking.signed_rank import adjusted, effect, p_value


def test_six_pairs_of_one_sign_have_the_smallest_p_there_is() -> None:
    values = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]
    assert p_value(values, "greater") == pytest.approx(1 / 64)
    assert p_value(values) == pytest.approx(2 / 64)
    assert p_value([-value for value in values], "less") == pytest.approx(1 / 64)


def test_a_ratio_of_one_says_nothing() -> None:
    assert p_value([0.0] * 6) == 1.0
    assert p_value([0.0, 0.01, 0.02, 0.03]) == p_value([0.01, 0.02, 0.03])


def test_the_estimate_is_the_median_of_the_averages_and_six_values_span_the_interval() -> None:
    ratios = [1.01, 1.02, 1.03, 1.04, 1.05, 1.2]
    found = effect([log(ratio) for ratio in ratios])
    # 21 averages; the interval of six values leaves none out
    averages = sorted((log(a) + log(b)) / 2 for i, a in enumerate(ratios) for b in ratios[i:])
    assert found.estimate == pytest.approx(exp(averages[10]) - 1)
    assert (found.low, found.high) == (pytest.approx(0.01), pytest.approx(0.2))


def test_too_few_values_have_no_interval() -> None:
    found = effect([0.01] * 5)
    assert (found.low, found.high) == (-1.0, float("inf"))


def test_swapping_the_sides_turns_the_effect_round() -> None:
    values = list(np.random.default_rng(0).normal(0.02, 0.05, 18))
    there, back = effect(values), effect([-value for value in values])
    assert 1 + there.estimate == pytest.approx(1 / (1 + back.estimate))
    assert 1 + there.low == pytest.approx(1 / (1 + back.high))


@pytest.mark.parametrize("count", [6, 18])
def test_the_interval_covers_the_truth_as_often_as_it_says(count: int) -> None:
    random, truth, tries = np.random.default_rng(count), 0.04, 1000
    hits = 0
    for _ in range(tries):
        found = effect(list(log(1 + truth) + 0.05 * random.standard_t(3, count)))  # heavy tails, as measured ratios
        hits += found.low <= truth <= found.high
    assert hits / tries > 0.95 - 3 * (0.95 * 0.05 / tries) ** 0.5


def test_the_test_rejects_what_is_not_there_as_rarely_as_it_says() -> None:
    random, tries = np.random.default_rng(1), 1000
    rejected = sum(p_value(list(random.standard_t(2, 18))) <= 0.05 for _ in range(tries))
    assert rejected / tries < 0.05 + 3 * (0.05 * 0.95 / tries) ** 0.5


def test_correction_multiplies_the_smallest_p_by_the_number_of_tests() -> None:
    assert adjusted([0.001, 1.0, 1.0, 1.0]) == pytest.approx([0.004, 1.0, 1.0, 1.0])
    assert adjusted([]) == []
