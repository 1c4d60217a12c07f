"""The counter-based generator: an example's numbers depend on it alone, and have the stated probabilities."""

import numpy as np
import pytest

from cab.data.counter_rng import CounterRNG, below, mix, numbers


def test_it_is_splitmix64() -> None:
    # the first outputs of the published generator (Steele et al.; Vigna's splitmix64.c) for the seed 1234567
    first = numbers(np.array([1234567], np.uint64), 3)[0].tolist()
    assert first == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_a_batch_is_drawn_as_its_examples_are_alone() -> None:
    together, weights = CounterRNG([5, 6, 7]), np.array([9, 1, 3, 3, 7])
    drawn = [
        together.distinct(9, 4),
        together.integers(7, 5),
        together.integers(np.array([[2], [3], [4]]), 5),
        together.weighted_choice(weights, 3),
        together.bits(2),
    ]
    for row, number in enumerate([5, 6, 7]):
        alone = CounterRNG([number])
        expected = [
            alone.distinct(9, 4),
            alone.integers(7, 5),
            alone.integers(np.array([[row + 2]]), 5),
            alone.weighted_choice(weights, 3),
            alone.bits(2),
        ]
        for a, b in zip(drawn, expected, strict=True):
            assert a[row].tolist() == b[0].tolist()


def test_parts_share_no_randomness() -> None:
    rng = CounterRNG(range(2000))
    a, b = rng.integers(2, 1)[:, 0], rng.integers(2, 1)[:, 0]
    assert abs(np.mean(a == b) - 0.5) < 0.06


def test_distinct_integers_are_different_and_in_every_order_alike() -> None:
    rows = CounterRNG(range(24_000)).distinct(4, 3)
    assert all(len(set(row)) == 3 for row in rows[:100].tolist())
    _, counts = np.unique(rows @ [16, 4, 1], return_counts=True)
    assert len(counts) == 24 and abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_weights_are_probabilities_without_replacement() -> None:
    chosen = CounterRNG(range(20_000)).weighted_choice(np.array([6, 3, 0, 1]), 2)
    first = np.bincount(chosen[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(first, [0.6, 0.3, 0, 0.1], atol=0.02)
    second = np.bincount(chosen[chosen[:, 0] == 0, 1], minlength=4) / (chosen[:, 0] == 0).sum()
    np.testing.assert_allclose(second, [0, 0.75, 0, 0.25], atol=0.02)


@pytest.mark.parametrize("bound", [1, 2, 3, 1000, 2**32])
def test_below_stays_below(bound: int) -> None:
    bits = mix(np.arange(3000, dtype=np.uint64))
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert below(ends, bound).tolist() == [0, bound - 1]
    assert abs(below(bits, bound).mean() / bound - (bound - 1) / (2 * bound)) < 0.05
