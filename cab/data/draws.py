"""Random integers by counter: example i of a split is a number, and all that it holds is computed from that number.

SplitMix64 (Steele et al., OOPSLA 2014), on arrays of 64-bit integers: no state, no floating point, so that an example
is the same on any machine, in any batch and in any order; a whole batch is drawn in a few array operations.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
Bits = NDArray[np.uint64]

_STRIDE = 0x9E3779B97F4A7C15
_HALF = np.uint64(32)


def mixed(z: Bits) -> Bits:
    """Scramble 64-bit integers: SplitMix64's output function."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def numbers(parents: Bits, count: int, first: int = 0) -> Bits:
    """Return the numbers `first` to `first + count` of each parent's sequence: (parents, count)."""
    steps = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(_STRIDE)
    return mixed(parents[:, None] + steps)


class Examples:
    """A split of `size` examples: item i is (number, level), a function of seed, split and i.

    A level is one of `levels`, each as likely; `lengths` lists them, so that a batch can be of like ones.
    """

    def __init__(self, seed: int, split: str, size: int, levels: Sequence[int]) -> None:
        name = int.from_bytes(split.encode()[:8], "little")
        parent = numbers(numbers(np.array([seed], np.uint64), 1)[0] ^ np.uint64(name), 1)[0]
        self._numbers = numbers(parent, size)[0]
        chosen = below(mixed(self._numbers), len(levels))
        self.lengths: Whole = np.asarray(levels, dtype=np.int64)[chosen]

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int, /) -> tuple[int, int]:
        return int(self._numbers[index]), int(self.lengths[index])


class Draws:
    """What a batch of examples holds, drawn part by part; each part takes up where the last one ended."""

    def __init__(self, examples: Sequence[int]) -> None:
        self.examples = np.array(examples, dtype=np.uint64)
        self._used = 0

    def bits(self, count: int) -> Bits:
        """Draw `count` numbers of 64 bits an example: (examples, count)."""
        self._used += count
        return numbers(self.examples, count, self._used - count)

    def below(self, most: int | Whole, count: int) -> Whole:
        """Draw `count` integers an example, from 0 to below `most`: (examples, count)."""
        return below(self.bits(count), most)

    def distinct(self, of: int, count: int) -> Whole:
        """Draw `count` different integers below `of`, in random order: (examples, count)."""
        bits = self.bits(count)
        table = np.tile(np.arange(of), (len(bits), 1))
        rows = np.arange(len(bits))
        for j in range(count):  # Fisher and Yates, as far as needed, all examples at once
            chosen = j + below(bits[:, j], of - j)
            table[rows, chosen], table[:, j] = table[:, j], table[rows, chosen]
        return table[:, :count]

    def weighted(self, weights: Whole, count: int) -> Whole:
        """Draw `count` different places of `weights`, one after another, each as likely as its weight says.

        Weights are integers whose sum is below 2**32.
        """
        bits = self.bits(count)
        left = np.tile(weights, (len(bits), 1))
        rows = np.arange(len(bits))
        chosen = np.empty((len(bits), count), dtype=np.int64)
        for j in range(count):
            ends = left.cumsum(1)
            chosen[:, j] = (ends <= below(bits[:, j], ends[:, -1])[:, None]).sum(1)
            left[rows, chosen[:, j]] = 0
        return chosen


def below(bits: Bits, most: int | Whole) -> Whole:
    """Reduce 64-bit integers to 0 ... most - 1 (most up to 2**32) by their upper halves."""
    return ((bits >> _HALF) * np.asarray(most).astype(np.uint64) >> _HALF).astype(np.int64)
