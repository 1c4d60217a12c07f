"""Pathfinder (Linsley et al., arXiv 1805.08315) as Long Range Arena has it: does one dashed path join the two dots?

Two target paths grow side by side, dashed distractors fill the room that is left, a dot marks one end of a path and
another the far end of the same path (label 1) or of the other (label 0). The rules are those of the code of 2019
(drewlinsley/pathfinder, ab9c130); an image is a function of the seed and its index alone.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cab.data.pathfinder_tables import Array, Recipe, tables

FACTS = ("label", "margin", "y", "x", "end y", "end x", "distractors", "attempts")
_CHUNK = 64  # images that a thread draws at a time


def generate(seed: int, first: int, count: int, recipe: Recipe) -> tuple[Array, Array]:
    """Draw images first, first + 1, ... of a seed: (count, size, size) bytes, and their `FACTS` (count, 8).

    The margin is an index into the recipe's. The number of threads changes nothing.
    """
    parts = list(chunks(seed, first, count, recipe))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def chunks(seed: int, first: int, count: int, recipe: Recipe) -> Iterator[tuple[Array, Array]]:
    """Yield what `generate` gives in pieces, in order; a few are under way at a time."""
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        ahead: list[Any] = []
        for start in range(first, first + count, _CHUNK):
            ahead.append(pool.submit(_drawn, seed, start, min(_CHUNK, first + count - start), recipe))
            if len(ahead) > 2 * workers:
                yield ahead.pop(0).result()
        for each in ahead:
            yield each.result()


def _drawn(seed: int, first: int, count: int, recipe: Recipe) -> tuple[Array, Array]:
    from cab.data import pathfinder_kernels

    t = tables(recipe)
    images = np.empty((count, recipe.size, recipe.size), np.uint8)
    facts = np.empty((count, len(FACTS)), np.int64)
    sizes = (recipe.segments, recipe.distractor_segments, recipe.distractors, recipe.padding, 2 * recipe.seed_distance)
    pathfinder_kernels.draw(
        seed, first, sizes, t.lines, t.masks, t.footprints,
        t.footprint_sizes, t.heads, t.pivots, t.steps, t.ring, t.ring_sizes, t.weights, t.discs, t.disc_sizes,
        t.seconds, t.marker, t.ranks, t.levels, images, facts,
    )  # fmt: skip
    return images, facts


def labels(seed: int, first: int, count: int) -> Array:
    """Return the labels of images first, first + 1, ... without drawing them: they are their streams' first numbers."""
    golden, other = 0x9E3779B97F4A7C15, 0x94D049BB133111EB
    index = np.arange(first, first + count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        start = _mixed(np.uint64((seed + golden) % 2**64)) ^ (index * np.uint64(golden) + np.uint64(other))
        found: Array = _mixed(_mixed(start) + np.uint64(golden)) >> np.uint64(63)
    return found.astype(np.int64)


def _mixed(state: Any) -> Any:
    z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Drawn:
    """Images first, first + 1, ... of a seed as a split: item i is (pixels row by row, label), drawn when asked for."""

    def __init__(self, seed: int, first: int, count: int, recipe: Recipe) -> None:
        self.seed, self.first, self.count, self.recipe = seed, first, count, recipe

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> tuple[Array, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        images, facts = _drawn(self.seed, self.first + index, 1, self.recipe)
        return images.reshape(-1), int(facts[0, 0])

    def labels(self) -> Array:
        """Return all labels."""
        return labels(self.seed, self.first, self.count)
