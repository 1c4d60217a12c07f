"""Draws by counter: an example depends on seed, split and index alone, and every draw is as likely as it says."""

import numpy as np
import pytest

from cab.data.draws import Draws, Examples, below, mixed, numbers


def test_it_is_splitmix64() -> None:
    # the first outputs of the published generator (Steele et al.; Vigna's splitmix64.c) for the seed 1234567
    found = numbers(np.array([1234567], np.uint64), 3)[0].tolist()
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_an_example_depends_on_seed_split_and_index_alone() -> None:
    short, long = Examples(3, "train", 5, [1, 2, 4]), Examples(3, "train", 500, [1, 2, 4])
    assert [short[i] for i in range(5)] == [long[i] for i in range(5)]
    assert len({long[i][0] for i in range(500)}) == 500
    for other in (Examples(4, "train", 5, [1, 2, 4]), Examples(3, "test", 5, [1, 2, 4])):
        assert not {short[i][0] for i in range(5)} & {other[i][0] for i in range(5)}
    assert short[2] == (7426279416532757281, 4)  # written down: other draws would be another task version


def test_levels_are_equally_likely_and_their_lengths_are_listed() -> None:
    examples = Examples(0, "train", 6000, [8, 16, 64])
    assert [examples[i][1] for i in range(100)] == examples.lengths[:100].tolist()
    _, counts = np.unique(examples.lengths, return_counts=True)
    assert len(counts) == 3 and abs(counts - 2000).max() < 5 * np.sqrt(6000 * 2 / 9)


def test_a_batch_is_drawn_as_its_examples_are_alone() -> None:
    together, weights = Draws([5, 6, 7]), np.array([9, 1, 3, 3, 7])
    found = [
        together.distinct(9, 4),
        together.below(7, 5),
        together.below(np.array([[2], [3], [4]]), 5),
        together.weighted(weights, 3),
        together.bits(2),
    ]
    for row, number in enumerate([5, 6, 7]):
        alone = Draws([number])
        expected = [
            alone.distinct(9, 4),
            alone.below(7, 5),
            alone.below(np.array([[row + 2]]), 5),
            alone.weighted(weights, 3),
            alone.bits(2),
        ]
        for a, b in zip(found, expected, strict=True):
            assert a[row].tolist() == b[0].tolist()


def test_parts_share_no_randomness() -> None:
    draws = Draws(range(2000))
    a, b = draws.below(2, 1)[:, 0], draws.below(2, 1)[:, 0]
    assert abs(np.mean(a == b) - 0.5) < 0.06


def test_distinct_integers_are_different_and_in_every_order_alike() -> None:
    found = Draws(range(24_000)).distinct(4, 3)
    assert all(len(set(row)) == 3 for row in found[:100].tolist())
    _, counts = np.unique(found @ [16, 4, 1], return_counts=True)
    assert len(counts) == 24 and abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_weights_are_probabilities_without_replacement() -> None:
    found = Draws(range(20_000)).weighted(np.array([6, 3, 0, 1]), 2)
    first = np.bincount(found[:, 0], minlength=4) / 20_000
    np.testing.assert_allclose(first, [0.6, 0.3, 0, 0.1], atol=0.02)
    second = np.bincount(found[found[:, 0] == 0, 1], minlength=4) / (found[:, 0] == 0).sum()
    np.testing.assert_allclose(second, [0, 0.75, 0, 0.25], atol=0.02)


@pytest.mark.parametrize("most", [1, 2, 3, 1000, 2**32])
def test_below_stays_below(most: int) -> None:
    bits = mixed(np.arange(3000, dtype=np.uint64))
    ends = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert below(ends, most).tolist() == [0, most - 1]
    assert abs(below(bits, most).mean() / most - (most - 1) / (2 * most)) < 0.05
