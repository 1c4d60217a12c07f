"""Multi-query associative recall after Zoology (Arora et al., arXiv 2312.04927; zoology/data/multiquery_ar.py).

    key value key value  .   .  key  .   .   .  key  .        what is between the queries is blank (0), or random
                                 |               |
                                value           value         the labels

Queries stand at even distances from the end of the pairs; the distance is drawn by a power law, the near ones first.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

import numpy as np

from cab.data.draws import Draws, Whole

IGNORED = -100


def sequences(
    examples: Sequence[tuple[int, int]], n: int, *, vocabulary: int, power: float, noise: bool
) -> tuple[Whole, Whole]:
    """Draw ids (batch, n), below `vocabulary`, and the queries: their places and values, (batch, 2, most pairs).

    An example is its number and its pairs; where it has fewer than the others, its last queries are of place 0 and
    value `IGNORED`. Keys are 1 to vocabulary / 2 - 1, values the rest. With `noise` every blank is a random id, as
    Zoology's generator does by default and its published experiments do not.
    """
    counts = np.array([pairs for _, pairs in examples])
    ids = np.zeros((len(counts), n), dtype=np.int64)
    queries = np.zeros((len(counts), 2, counts.max()), dtype=np.int64)
    queries[:, 1] = IGNORED
    for pairs in np.unique(counts).tolist():
        rows = np.flatnonzero(counts == pairs).tolist()
        drawn = _of(pairs, [examples[row][0] for row in rows], n, vocabulary, power, noise)
        ids[rows], queries[rows, :, :pairs] = drawn
    return ids, queries


def _of(pairs: int, numbers: list[int], n: int, vocabulary: int, power: float, noise: bool) -> tuple[Whole, Whole]:
    """Draw sequences that have equally many pairs."""
    draws, half = Draws(numbers), vocabulary // 2
    keys = 1 + draws.distinct(half - 1, pairs)
    values = half + draws.distinct(vocabulary - half, pairs)
    gaps = draws.weighted(weights((n - 2 * pairs) // 2, power), pairs)
    ids = draws.below(vocabulary, n) if noise else np.zeros((len(keys), n), dtype=np.int64)
    ids[:, 0 : 2 * pairs : 2], ids[:, 1 : 2 * pairs : 2] = keys, values
    places = 2 * pairs + 2 * gaps
    np.put_along_axis(ids, places, keys, 1)
    return ids, np.stack([places, values], 1)


@lru_cache
def weights(count: int, power: float) -> Whole:
    """Return i ** (power - 1) for i = 1 ... count as integers, by decimal arithmetic: the same on every machine."""
    scale, exponent = Decimal(2**32 // (count + 1)), Decimal(str(power)) - 1
    return np.array([int(scale * Decimal(i) ** exponent) or 1 for i in range(1, count + 1)], dtype=np.int64)
