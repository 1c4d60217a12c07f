"""Splits of generated examples: an example is a function of seed, split and index alone."""

import numpy as np

from cab.data.generated_split import GeneratedSplit


def test_an_example_depends_on_seed_split_and_index_alone() -> None:
    short, long = GeneratedSplit(3, "train", 5, [1, 2, 4]), GeneratedSplit(3, "train", 500, [1, 2, 4])
    assert [short[i] for i in range(5)] == [long[i] for i in range(5)]
    assert len({long[i][0] for i in range(500)}) == 500
    for other in (GeneratedSplit(4, "train", 5, [1, 2, 4]), GeneratedSplit(3, "test", 5, [1, 2, 4])):
        assert not {short[i][0] for i in range(5)} & {other[i][0] for i in range(5)}
    assert short[2] == (7426279416532757281, 4)  # written down: other draws would be another task version


def test_levels_are_equally_likely_and_their_lengths_are_listed() -> None:
    examples = GeneratedSplit(0, "train", 6000, [8, 16, 64])
    assert [examples[i][1] for i in range(100)] == examples.lengths[:100].tolist()
    _, counts = np.unique(examples.lengths, return_counts=True)
    assert len(counts) == 3 and abs(counts - 2000).max() < 5 * np.sqrt(6000 * 2 / 9)
