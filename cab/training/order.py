"""Which examples a training step sees: a function of the seed and the step alone, with batches of like lengths.

Each epoch is a permutation. It is cut into pools of `POOL` batches; a pool is sorted by length, cut into batches, and
the batches are shuffled. A batch's padding is then a few tokens, and no example is left out or seen twice.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

POOL = 16  # batches sorted together: most of the gain, and batches stay nearly random samples


class Order:
    """The indices of each step's batch, for a split of `size` examples. Without `lengths` nothing is sorted."""

    def __init__(self, size: int, batch: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        if size < 1:
            raise ValueError("a split without examples cannot be trained on")
        self.size, self.batch, self.seed = size, batch, seed
        self.lengths = None if lengths is None else np.asarray(lengths)
        self._epoch = lru_cache(2)(self._permutation)
        self._pool = lru_cache(2)(self._batches)

    def __call__(self, step: int) -> list[int]:
        """Return the indices of a step's batch; epochs follow one another without a gap."""
        return self._pool(step // POOL)[step % POOL]

    def _permutation(self, epoch: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        return np.random.default_rng([self.seed, 0, epoch]).permutation(self.size)

    def _batches(self, pool: int) -> list[list[int]]:
        first = pool * POOL * self.batch
        places = range(first, first + POOL * self.batch)
        indices = np.array([self._epoch(place // self.size)[place % self.size] for place in places])
        if self.lengths is not None:
            indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        order = np.random.default_rng([self.seed, 1, pool]).permutation(POOL)
        return [indices[i * self.batch : (i + 1) * self.batch].tolist() for i in order]


def by_length(size: int, batch: int, lengths: Sequence[int] | None = None) -> list[list[int]]:
    """Cut all indices into batches, the longest first, for scoring: memory that suffices for the first suffices."""
    indices = range(size) if lengths is None else sorted(range(size), key=lambda i: -lengths[i])
    return [list(indices[i : i + batch]) for i in range(0, size, batch)]
