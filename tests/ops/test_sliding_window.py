"""The cost of a sliding window in blocks."""

from cab.ops.sliding_window import banded_pairs


def test_the_cost_grows_with_the_window_and_not_with_the_square_of_the_length() -> None:
    pairs = [banded_pairs(n, 128, 128, 64) for n in (1024, 2048, 4096)]
    assert pairs == [n * 320 for n in (1024, 2048, 4096)]
    assert banded_pairs(100, 128, 128, 64) == 100 * 100
