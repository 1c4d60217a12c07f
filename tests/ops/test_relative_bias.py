"""Biases for the offset between two places of a window."""

from itertools import product

import torch

from cab.ops.relative_bias import ContinuousBias, TableBias, offset_index


def test_equal_offsets_have_equal_numbers_and_different_ones_different() -> None:
    window = (3, 2, 4)
    tokens = list(product(*map(range, window)))
    offsets = {
        (i, j): tuple(a - b for a, b in zip(tokens[i], tokens[j], strict=True)) for i in range(24) for j in range(24)
    }
    index = offset_index(window, (1, 1, 1))
    numbers = {offset: int(index[pair]) for pair, offset in offsets.items()}
    assert all(int(index[pair]) == numbers[offset] for pair, offset in offsets.items())
    assert sorted(numbers.values()) == list(range(5 * 3 * 7))


def test_several_queries_at_one_key_share_its_offsets() -> None:
    index, finer = offset_index((3, 2), (1, 1)), offset_index((3, 2), (2, 1))
    assert torch.equal(finer, index.view(3, 2, 6).repeat_interleave(2, 0).view(12, 6))


def test_the_continuous_bias_depends_on_the_share_of_the_window_alone() -> None:
    torch.manual_seed(0)
    small, large = ContinuousBias(2, (3,), (1,)), ContinuousBias(2, (5,), (1,))
    large.load_state_dict(small.state_dict())
    torch.testing.assert_close(small.of_offsets(), large.of_offsets()[:, ::2])
    assert small.of_offsets().min() > 0 and small.of_offsets().max() < 16


def test_a_table_has_a_number_for_each_offset_and_head() -> None:
    bias = TableBias(2, (3, 4), (1, 1))
    assert bias.table.shape == (2, 5 * 7) and bias().shape == (2, 12, 12)
