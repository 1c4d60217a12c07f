"""Associative recall: pairs of a key and a value, and what is asked about them, as numpy batches of token ids.

The values of an example are all different, so the pooled source says nothing: who cannot find a key's own pair
guesses one of P values (chance 1/P). Training has fewer pairs too, a ladder: 64 alone are not learnt.

A token is two ids, whose embeddings are added up. 0 says nothing; then come keys, values or modes, and asks.
"""

from collections.abc import Sequence

import numpy as np

from cab.data.draws import Draws, Whole

IGNORED = -100  # the label where nothing is asked: what torch's cross-entropy leaves out
Example = tuple[int, int]  # its number, its pairs


def ladder(pairs: int, halvings: int) -> list[int]:
    """Return `pairs` and its halves, the fewest first."""
    if halvings < 0 or pairs >> halvings < 1:
        raise ValueError(f"halvings={halvings}: from 0, and few enough to leave one of {pairs} pairs")
    return [pairs >> i for i in range(halvings, -1, -1)]


class Pairs:
    """The pairs of a batch: keys and values below `most`, (batch, most), of which each row's first `counts` exist."""

    def __init__(self, examples: Sequence[Example], most: int) -> None:
        self.most = most
        self.draws = Draws([number for number, _ in examples])
        self.counts = np.array([count for _, count in examples], dtype=np.int64)
        self.keys, self.values = self.draws.distinct(most, most), self.draws.distinct(most, most)

    @property
    def real(self) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """Which pairs exist: (batch, most)."""
        return np.arange(self.most) < self.counts[:, None]

    def asked(self, count: int) -> Whole:
        """Draw the pairs that `count` asks an example are about, each time any of those that exist."""
        return self.draws.below(self.counts[:, None], count)

    def tokens(self) -> Whole:
        """Return the pairs as tokens (batch, most, 2): ids 1 + key and 1 + most + value, 0 where none exists."""
        ids = np.stack([1 + self.keys, 1 + self.most + self.values], -1)
        return np.where(self.real[:, :, None], ids, 0)


def with_modes(pairs: Pairs, n: int, neighbour: int) -> tuple[Whole, Whole]:
    """Draw a target of n tokens: ids (batch, n, 2) of key and mode, and the values asked for (batch, n).

    Mode 0 (id most + 1) asks for the value of the token's own key; mode 1 (id most + 2) for that of the key
    `neighbour` places on: -1 is the previous token. A token without such a neighbour has mode 0.
    """
    own = pairs.asked(n)
    modes = pairs.draws.below(2, n)
    modes[:, 0 if neighbour < 0 else -1] = 0
    other = np.roll(own, -neighbour, axis=1)
    keys = np.take_along_axis(pairs.keys, own, 1)
    labels = np.take_along_axis(pairs.values, np.where(modes == 1, other, own), 1)
    return np.stack([1 + keys, 1 + pairs.most + modes], -1), labels


def asks_first(pairs: Pairs, asks: int) -> tuple[Whole, Whole]:
    """Draw one sequence (batch, asks + most, 2), asks before pairs, and its labels, `IGNORED` at the pairs.

    An ask has one id, 1 + 2 most + key: not the key's own.
    """
    about = pairs.asked(asks)
    keys, labels = np.take_along_axis(pairs.keys, about, 1), np.take_along_axis(pairs.values, about, 1)
    questions = np.stack([1 + 2 * pairs.most + keys, np.zeros_like(keys)], -1)
    nothing = np.full_like(pairs.keys, IGNORED)
    return np.concatenate([questions, pairs.tokens()], 1), np.concatenate([labels, nothing], 1)
