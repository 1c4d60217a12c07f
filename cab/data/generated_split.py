"""A split of generated examples: each is a random number, from which everything in it is drawn."""

from collections.abc import Sequence

import numpy as np

from cab.data.counter_rng import Integers, below, mix, numbers


class GeneratedSplit:
    """A split of `size` examples: item i is (number, difficulty), a function of the seed, the split's name and i.

    The difficulty is one of `difficulties`, each equally likely. A generator says what it counts, such as the pairs of
    an example. `lengths` lists the difficulties of all examples, so that batches are made of similar ones.
    """

    def __init__(self, seed: int, name: str, size: int, difficulties: Sequence[int]) -> None:
        name_bits = np.uint64(int.from_bytes(name.encode()[:8], "little"))
        parent = numbers(numbers(np.array([seed], np.uint64), 1)[0] ^ name_bits, 1)[0]
        self._numbers = numbers(parent, size)[0]
        chosen = below(mix(self._numbers), len(difficulties))
        self.lengths: Integers = np.asarray(difficulties, dtype=np.int64)[chosen]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int, /) -> tuple[int, int]:
        return int(self._numbers[index]), int(self.lengths[index])
