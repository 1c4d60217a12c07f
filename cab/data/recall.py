"""Associative recall: pairs of a key and a value, and queries for the values, as numpy batches of token ids.

The values of an example are all different, so the mean over its pairs tells nothing: a model that does not look a key
up guesses one of P values (chance 1 / P). Training has examples with fewer pairs too, because models do not learn from
examples with 64 pairs alone.

A token has two ids, whose embeddings are summed. Id 0 is an empty field. The ids of keys follow, then those of values
or modes, then those of queries.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cab.data.counter_rng import CounterRNG, Integers
from cab.errors import Unsupported

IGNORED = -100  # the label of a token without one: torch's cross-entropy ignores it
Example = tuple[int, int]  # its number, and how many pairs it has


def halved_counts(pairs: int, halvings: int) -> list[int]:
    """Return pairs / 2**halvings, ..., pairs / 2, pairs, rounded down."""
    if halvings < 0 or pairs >> halvings < 1:
        raise ValueError(f"halvings={halvings}: from 0, and few enough to leave one of {pairs} pairs")
    return [pairs >> i for i in range(halvings, -1, -1)]


def lengthened(count: int, factor: float, what: str) -> int:
    """Return `factor` times a number of tokens; `Unsupported` unless it is a whole number from 1."""
    longer = count * factor
    if longer < 1 or longer != int(longer):
        raise Unsupported(f"{factor:g} times {count} {what} is no whole number from 1")
    return int(longer)


class KeyValuePairs:
    """The pairs of a batch of examples.

    `keys` and `values` are (batch, max_pairs) and below `max_pairs`. Of its row, an example has the first `counts`
    (batch,). Its tokens are these pairs, `repeats` times in the same order.
    """

    def __init__(self, examples: Sequence[Example], max_pairs: int, repeats: int = 1) -> None:
        self.max_pairs, self.repeats = max_pairs, repeats
        self.rng = CounterRNG([number for number, _ in examples])
        self.counts = np.array([count for _, count in examples], dtype=np.int64)
        self.keys, self.values = self.rng.distinct(max_pairs, max_pairs), self.rng.distinct(max_pairs, max_pairs)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The tokens that examples have: (batch, repeats * max_pairs)."""
        return np.arange(self.repeats * self.max_pairs) < self.repeats * self.counts[:, None]

    def draw_indices(self, count: int) -> Integers:
        """Draw `count` indices of pairs that the example has, with replacement: (batch, count)."""
        return self.rng.integers(self.counts[:, None], count)

    def tokens(self) -> Integers:
        """Return the pairs as tokens (batch, repeats * max_pairs, 2): ids 1 + key and 1 + max_pairs + value.

        Padding, which comes last, is 0.
        """
        indices = np.arange(self.repeats * self.max_pairs) % self.counts[:, None]
        keys, values = (np.take_along_axis(each, indices, 1) for each in (self.keys, self.values))
        ids = np.stack([1 + keys, 1 + self.max_pairs + values], -1)
        return np.where(self.mask[:, :, None], ids, 0)


def queries_with_modes(pairs: KeyValuePairs, n: int, neighbour: int) -> tuple[Integers, Integers]:
    """Draw `n` queries for each example: ids (batch, n, 2) of key and mode, and the values they ask for (batch, n).

    Mode 0 (id max_pairs + 1) asks for the value of the query's own key. Mode 1 (id max_pairs + 2) asks for that of the
    key of another query, `neighbour` positions on: -1 is the previous one. A query without a neighbour has mode 0.
    """
    own = pairs.draw_indices(n)
    modes = pairs.rng.integers(2, n)
    modes[:, 0 if neighbour < 0 else -1] = 0
    others = np.roll(own, -neighbour, axis=1)
    keys = np.take_along_axis(pairs.keys, own, 1)
    labels = np.take_along_axis(pairs.values, np.where(modes == 1, others, own), 1)
    return np.stack([1 + keys, 1 + pairs.max_pairs + modes], -1), labels


def queries_then_pairs(pairs: KeyValuePairs, queries: int) -> tuple[Integers, Integers]:
    """Draw one sequence for each example: its queries, then its pairs.

    Returns ids (batch, queries + tokens of pairs, 2) and labels (batch, queries + tokens of pairs), which are `IGNORED`
    at the pairs. The id of a query is 1 + 2 max_pairs + key, which is not that of its key in a pair. Its second field
    is empty.
    """
    indices = pairs.draw_indices(queries)
    keys, labels = np.take_along_axis(pairs.keys, indices, 1), np.take_along_axis(pairs.values, indices, 1)
    query_tokens = np.stack([1 + 2 * pairs.max_pairs + keys, np.zeros_like(keys)], -1)
    tokens = pairs.tokens()
    no_labels = np.full_like(tokens[:, :, 0], IGNORED)
    return np.concatenate([query_tokens, tokens], 1), np.concatenate([labels, no_labels], 1)
