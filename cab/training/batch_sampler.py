"""Which examples make each batch: shuffled, with similar lengths together, a function of the seed and the step alone.

Each epoch is a permutation of the examples. It is cut into pools of `POOL` batches. A pool is sorted by length and cut
into batches, and these are shuffled. A batch then has little padding, and each epoch has every example once.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

POOL = 16  # batches sorted together: enough for most of the saving, and few enough for batches to stay nearly random


class BatchSampler:
    """The indices of each training step's batch, from a split of `size` examples.

    `lengths` has a number for each example; without it nothing is sorted.
    """

    def __init__(self, size: int, batch: int, seed: int, lengths: Sequence[int] | None = None) -> None:
        if size < 1:
            raise ValueError("a split without examples cannot be trained on")
        self.size, self.batch, self.seed = size, batch, seed
        self.lengths = None if lengths is None else np.asarray(lengths)
        self._epoch = lru_cache(2)(self._permutation)
        self._pool = lru_cache(2)(self._batches)

    def __call__(self, step: int) -> list[int]:
        """Return the indices of a step's batch. A batch may span the end of one epoch and the start of the next."""
        return self._pool(step // POOL)[step % POOL]

    def _permutation(self, epoch: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        return np.random.default_rng([self.seed, 0, epoch]).permutation(self.size)

    def _batches(self, pool: int) -> list[list[int]]:
        first = pool * POOL * self.batch
        positions = range(first, first + POOL * self.batch)  # in the sequence of all epochs
        indices = np.array([self._epoch(position // self.size)[position % self.size] for position in positions])
        if self.lengths is not None:
            indices = indices[np.argsort(self.lengths[indices], kind="stable")]
        order = np.random.default_rng([self.seed, 1, pool]).permutation(POOL)
        return [indices[i * self.batch : (i + 1) * self.batch].tolist() for i in order]


def longest_first(size: int, batch: int, lengths: Sequence[int] | None = None) -> list[list[int]]:
    """Cut all indices into batches by falling length, for scoring.

    The first batch then takes the most memory: if it fits, all do.
    """
    indices = range(size) if lengths is None else sorted(range(size), key=lambda i: -lengths[i])
    return [list(indices[i : i + batch]) for i in range(0, size, batch)]
