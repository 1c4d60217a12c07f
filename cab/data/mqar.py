"""Multi-query associative recall as in Zoology (Arora et al., arXiv 2312.04927; zoology/data/multiquery_ar.py).

    key value key value  .   .  key  .   .   .  key  .        between the queries: blanks (id 0), or random ids
                                 |               |
                                value           value         the labels

Queries are at even distances from the end of the pairs. Distances are drawn by a power law that favours short ones.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

import numpy as np

from cab.data.counter_rng import CounterRNG, Integers

IGNORED = -100  # the value of a query that an example does not have: torch's cross-entropy ignores such labels


def generate(
    examples: Sequence[tuple[int, int]], n: int, *, vocabulary: int, power: float, noise: bool
) -> tuple[Integers, Integers]:
    """Generate sequences of `n` tokens from examples (number, pairs).

    Returns ids (batch, n) below `vocabulary`, and queries (batch, 2, pairs): the index of each query's token, and the
    value of its key. Where an example has fewer pairs than others, its last queries have index 0 and value `IGNORED`.

    Keys are the ids 1 to vocabulary / 2 - 1, values those from vocabulary / 2 on. `power` is the exponent of the power
    law plus 1. With `noise` every blank is a random id, as is the default of Zoology's generator; its published
    experiments have none.
    """
    counts = np.array([pairs for _, pairs in examples])
    ids = np.zeros((len(counts), n), dtype=np.int64)
    queries = np.zeros((len(counts), 2, counts.max()), dtype=np.int64)
    queries[:, 1] = IGNORED
    for pairs in np.unique(counts).tolist():
        rows = np.flatnonzero(counts == pairs).tolist()
        example_numbers = [examples[row][0] for row in rows]
        ids[rows], queries[rows, :, :pairs] = _generate(pairs, example_numbers, n, vocabulary, power, noise)
    return ids, queries


def _generate(
    pairs: int, example_numbers: list[int], n: int, vocabulary: int, power: float, noise: bool
) -> tuple[Integers, Integers]:
    """Generate sequences that all have the same number of pairs."""
    rng, half = CounterRNG(example_numbers), vocabulary // 2
    keys = 1 + rng.distinct(half - 1, pairs)
    values = half + rng.distinct(vocabulary - half, pairs)
    gaps = rng.weighted_choice(power_law_weights((n - 2 * pairs) // 2, power), pairs)
    ids = rng.integers(vocabulary, n) if noise else np.zeros((len(keys), n), dtype=np.int64)
    ids[:, 0 : 2 * pairs : 2], ids[:, 1 : 2 * pairs : 2] = keys, values
    indices = 2 * pairs + 2 * gaps
    np.put_along_axis(ids, indices, keys, 1)
    return ids, np.stack([indices, values], 1)


@lru_cache
def power_law_weights(count: int, power: float) -> Integers:
    """Return weights in the ratio of i ** (power - 1) for i = 1, ..., count, as integers of at least 1.

    They are computed in decimal arithmetic, which gives the same integers on every machine.
    """
    scale, exponent = Decimal(2**32 // (count + 1)), Decimal(str(power)) - 1
    return np.array([int(scale * Decimal(i) ** exponent) or 1 for i in range(1, count + 1)], dtype=np.int64)
