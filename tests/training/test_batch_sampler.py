"""Batches: a function of seed and step, always full, of similar lengths, with every example once an epoch."""

import numpy as np
import pytest

from cab.training.batch_sampler import POOL, BatchSampler, longest_first


def random_lengths(size: int, most: int = 9) -> list[int]:
    return np.random.default_rng(0).integers(1, most, size).tolist()


def test_a_batch_is_a_function_of_the_seed_and_the_step() -> None:
    lengths = random_lengths(100)
    one, other = BatchSampler(100, 8, 3, lengths), BatchSampler(100, 8, 3, lengths)
    forward = {s: one(s) for s in range(60)}
    assert {s: other(s) for s in reversed(range(60))} == forward
    assert one(2) != one(3) and one(2) != BatchSampler(100, 8, 4, lengths)(2)


def test_an_epoch_has_every_example_once() -> None:
    size, batch = 8 * POOL, 4
    batches = BatchSampler(size, batch, 0, random_lengths(size))
    for epoch in range(3):
        indices = [i for s in range(epoch * size // batch, (epoch + 1) * size // batch) for i in batches(s)]
        assert sorted(indices) == list(range(size))


def test_every_batch_is_full_whatever_the_size_of_the_data() -> None:
    for size in (1, 3, 37):
        batches = BatchSampler(size, 5, 0)
        assert all(len(batches(s)) == 5 for s in range(3 * POOL))
        counts = np.bincount([i for s in range(3 * POOL) for i in batches(s)], minlength=size)
        assert counts.max() - counts.min() <= 1


def test_batches_have_like_lengths_and_come_in_random_order() -> None:
    lengths = np.array(random_lengths(64 * POOL, most=1000))
    by_length, unsorted = BatchSampler(len(lengths), 64, 0, lengths), BatchSampler(len(lengths), 64, 0)
    ranges = [[float(np.ptp(lengths[batches(s)])) for s in range(POOL)] for batches in (by_length, unsorted)]
    assert max(ranges[0]) < 150 < min(ranges[1])
    longest = [int(lengths[by_length(s)].max()) for s in range(POOL)]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_scoring_begins_with_the_longest() -> None:
    assert longest_first(5, 2, [3, 9, 1, 9, 4]) == [[1, 3], [4, 0], [2]]
    assert longest_first(3, 2) == [[0, 1], [2]]


def test_a_split_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="without examples"):
        BatchSampler(0, 4, 0)
