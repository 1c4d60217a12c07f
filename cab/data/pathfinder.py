"""Pathfinder (Linsley et al., arXiv 1805.08315) as generated for Long Range Arena: does a dashed path join two dots?

Two target paths grow side by side, and dashed distractors are drawn where there is room left. One dot marks an end of
one path. The other dot marks the far end of the same path (label 1) or of the other path (label 0). The rules are those
of the original code of 2019 (drewlinsley/pathfinder, ab9c130). An image is a function of the seed and its index alone.
"""

from collections.abc import Iterator

import numpy as np

from cab.data.counter_rng import GOLDEN, mix
from cab.data.pathfinder_tables import Array, Parameters, tables
from cab.data.threaded_chunks import threaded_chunks

FACTS = ("label", "margin", "y", "x", "end y", "end x", "distractors", "attempts")
_CHUNK = 64  # images that a thread draws at a time


def generate(seed: int, first: int, count: int, parameters: Parameters) -> tuple[Array, Array]:
    """Draw the images `first` to `first + count - 1` of a seed: bytes (count, size, size), and `FACTS` (count, 8).

    The margin in the facts is an index into the margins of the parameters.
    """
    images, facts = zip(*generate_chunks(seed, first, count, parameters), strict=True)
    return np.concatenate(images), np.concatenate(facts)


def generate_chunks(seed: int, first: int, count: int, parameters: Parameters) -> Iterator[tuple[Array, Array]]:
    """Yield the images and facts of `generate` chunk by chunk, drawn in threads."""
    return threaded_chunks(lambda start, size: _draw(seed, start, size, parameters), first, count, _CHUNK)


def labels(seed: int, first: int, count: int) -> Array:
    """Return the labels (count,) of the images of `generate` without drawing them: the first bit of each's stream."""
    golden = np.uint64(GOLDEN)
    index = np.arange(first, first + count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        seed_bits = mix(np.array((seed + GOLDEN) % 2**64, np.uint64))
        streams = mix(seed_bits ^ (index * golden + np.uint64(0x94D049BB133111EB)))
        bits: Array = mix(streams + golden) >> np.uint64(63)
    return bits.astype(np.int64)


class GeneratedImages:
    """The images `first` to `first + count - 1` of a seed as a split, each drawn when it is read.

    Item i is (pixels row by row, label).
    """

    def __init__(self, seed: int, first: int, count: int, parameters: Parameters) -> None:
        self.seed, self.first, self.count, self.parameters = seed, first, count, parameters

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> tuple[Array, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        images, facts = _draw(self.seed, self.first + index, 1, self.parameters)
        return images.reshape(-1), int(facts[0, 0])

    def labels(self) -> Array:
        """Return the labels of all images."""
        return labels(self.seed, self.first, self.count)


def _draw(seed: int, first: int, count: int, parameters: Parameters) -> tuple[Array, Array]:
    from cab.data import pathfinder_kernels

    t = tables(parameters)
    images = np.empty((count, parameters.size, parameters.size), np.uint8)
    facts = np.empty((count, len(FACTS)), np.int64)
    sizes = (
        parameters.segments,
        parameters.distractor_segments,
        parameters.distractors,
        parameters.padding,
        2 * parameters.seed_distance,
    )
    pathfinder_kernels.draw(
        seed, first, sizes, t.lines, t.masks, t.footprints, t.footprint_sizes, t.heads, t.pivots, t.steps, t.ring,
        t.ring_sizes, t.weights, t.discs, t.disc_sizes, t.seconds, t.marker, t.ranks, t.levels, images, facts,
    )  # fmt: skip
    return images, facts
