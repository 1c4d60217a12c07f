"""A counter-based random number generator on numpy arrays: SplitMix64 (Steele et al., OOPSLA 2014).

A number is a function of its parent, a 64-bit integer, and of its index alone. There is no state and no floating point:
an example has the same numbers on every machine, in every batch and in every order. A batch is drawn at once.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Bits = NDArray[np.uint64]

GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2**64 divided by the golden ratio
_HALF = np.uint64(32)


def mix(z: Bits) -> Bits:
    """Scramble 64-bit integers with SplitMix64's output function. The products wrap around modulo 2**64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def numbers(parents: Bits, count: int, first: int = 0) -> Bits:
    """Return the numbers `first` to `first + count - 1` of each parent (parents,): (parents, count)."""
    steps = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(GOLDEN)
    return mix(parents[:, None] + steps)


def below(bits: Bits, bound: int | Integers) -> Integers:
    """Map 64-bit integers to 0, ..., bound - 1 by their upper 32 bits; `bound` is at most 2**32."""
    return ((bits >> _HALF) * np.asarray(bound).astype(np.uint64) >> _HALF).astype(np.int64)


class CounterRNG:
    """A generator for each example of a batch; each call draws the numbers that follow those drawn before.

    `examples` are the examples' 64-bit integers. Results have a row for each example.
    """

    def __init__(self, examples: Sequence[int]) -> None:
        self.examples = np.array(examples, dtype=np.uint64)
        self._drawn = 0  # numbers of each example

    def bits(self, count: int) -> Bits:
        """Draw `count` 64-bit integers: (examples, count)."""
        self._drawn += count
        return numbers(self.examples, count, self._drawn - count)

    def integers(self, bound: int | Integers, count: int) -> Integers:
        """Draw `count` integers, from 0 to below `bound`: (examples, count)."""
        return below(self.bits(count), bound)

    def distinct(self, bound: int, count: int) -> Integers:
        """Draw `count` different integers below `bound`, in random order: (examples, count)."""
        bits = self.bits(count)
        table = np.tile(np.arange(bound), (len(bits), 1))
        rows = np.arange(len(bits))
        for j in range(count):  # the first `count` swaps of a Fisher-Yates shuffle, for all examples at once
            chosen = j + below(bits[:, j], bound - j)
            table[rows, chosen], table[:, j] = table[:, j], table[rows, chosen]
        return table[:, :count]

    def weighted_choice(self, weights: Integers, count: int) -> Integers:
        """Draw `count` different indices into `weights`, one after another, with probabilities in their ratio.

        Weights are integers whose sum is below 2**32. Returns (examples, count).
        """
        bits = self.bits(count)
        remaining = np.tile(weights, (len(bits), 1))
        rows = np.arange(len(bits))
        chosen = np.empty((len(bits), count), dtype=np.int64)
        for j in range(count):
            ends = remaining.cumsum(1)
            chosen[:, j] = (ends <= below(bits[:, j], ends[:, -1])[:, None]).sum(1)
            remaining[rows, chosen[:, j]] = 0
        return chosen
