"""Compiled kernels of Pathfinder: grow paths and paint images, in integers alone.

Each image draws from a SplitMix64 stream (Steele et al., OOPSLA 2014) of its own, seeded by the seed and its index. The
mask of an image has 0 to 255 at each pixel, where 255 is occupied. A pixel counts as free up to `FREE`, and two masks
collide where their sum is `COLLIDE` or more.

Arguments named as fields of `pathfinder_tables.Tables` are these tables, or their part for one margin or orientation.
`state` is the stream's state; positions are (y, x). Import this module inside the functions that use it: importing
numba is slow. The generator is not shared with other modules, because numba's cache does not notice that a function of
another file has changed.
"""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

import numpy as np
from numba import njit

_GOLDEN, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
DEGREES, OUTSIDE = 360, 64  # as in pathfinder_tables
FREE, COLLIDE = 76, 459  # 0.3 and 1.8, of 255
DEAD_END = 26_738  # a path ends where the weights of its ring sum to no more: 1e-4 * 255 * 2**20
TRIALS = 3  # for a segment
DISTRACTOR_TRIALS = 5
GUESSES = 64  # positions tried at random before all free ones are listed: faster, with the same probabilities


@njit(cache=True, nogil=True, inline="always")
def _mix(state: Any) -> Any:
    """SplitMix64's output function."""
    z = (state ^ (state >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _below(state: Any, limit: int) -> int:
    """Draw an integer from 0 to below `limit`, which is at most 2**32."""
    state[0] += _GOLDEN
    return np.int64(((_mix(state[0]) >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))  # type: ignore


@njit(cache=True, nogil=True)
def _below_large(state: Any, limit: int) -> int:
    """Draw an integer from 0 to below `limit`, which may be more than 2**32."""
    state[0] += _GOLDEN
    return np.int64(_mix(state[0]) % np.uint64(limit))  # type: ignore


@njit(cache=True, nogil=True)
def _inside(y: int, x: int, size: int) -> bool:
    return 0 <= y < size and 0 <= x < size


@njit(cache=True, nogil=True)
def _stamp(mask: Any, patch: Any, y: int, x: int) -> None:
    """Take the maximum of the mask and a patch centred at (y, x)."""
    size, reach = len(mask), len(patch) // 2
    left, right = max(0, reach - x), min(len(patch), size + reach - x)
    for i in range(max(0, reach - y), min(len(patch), size + reach - y)):
        row, patch_row = mask[y - reach + i, x - reach + left : x - reach + right], patch[i, left:right]
        for j in range(len(patch_row)):
            row[j] = max(row[j], patch_row[j])


@njit(cache=True, nogil=True)
def _paint(canvas: Any, patch: Any, y: int, x: int, ranks: Any) -> None:
    """Take the maximum of the canvas and the brightness ranks of a patch centred at (y, x)."""
    size, reach = len(canvas), len(patch) // 2
    for i in range(max(0, reach - y), min(len(patch), size + reach - y)):
        for j in range(max(0, reach - x), min(len(patch), size + reach - x)):
            value = ranks[patch[i, j]]
            if value > canvas[y - reach + i, x - reach + j]:
                canvas[y - reach + i, x - reach + j] = value


@njit(cache=True, nogil=True)
def _collides(mask: Any, patch: Any, y: int, x: int) -> bool:
    """Whether the mask and a patch centred at (y, x) sum to `COLLIDE` or more at any pixel."""
    size, reach = len(mask), len(patch) // 2
    left, right = max(0, reach - x), min(len(patch), size + reach - x)
    for i in range(max(0, reach - y), min(len(patch), size + reach - y)):
        row, patch_row = mask[y - reach + i, x - reach + left : x - reach + right], patch[i, left:right]
        highest = np.uint16(0)
        for j in range(len(patch_row)):
            highest = max(highest, np.uint16(np.uint16(row[j]) + np.uint16(patch_row[j])))
        if highest >= COLLIDE:
            return True
    return False


@njit(cache=True, nogil=True)
def _fits(mask: Any, border: int, footprint: Any, count: int, y: int, x: int) -> bool:
    """Whether the first `count` offsets of a footprint, from (y, x) on, are free wherever they are in the image.

    The `border` pixels at each edge are not free.
    """
    size = len(mask)
    for i in range(count):
        a, b = y + footprint[i, 0], x + footprint[i, 1]
        if _inside(a, b, size) and (
            a < border or a >= size - border or b < border or b >= size - border or mask[a, b] > FREE
        ):
            return False
    return True


@njit(cache=True, nogil=True)
def _random_fit(state: Any, mask: Any, border: int, footprint: Any, count: int) -> Any:
    """Draw one of the positions where a footprint fits, all equally likely; (-1, -1) where there is none."""
    size = len(mask)
    for _ in range(GUESSES):
        position = _below(state, size * size)
        if _fits(mask, border, footprint, count, position // size, position % size):
            return position // size, position % size
    fitting = np.empty(size * size, np.int64)
    number = 0
    for y in range(size):
        for x in range(size):
            if _fits(mask, border, footprint, count, y, x):
                fitting[number] = y * size + x
                number += 1
    if number == 0:
        return -1, -1
    position = fitting[_below(state, number)]
    return position // size, position % size


@njit(cache=True, nogil=True)
def _draw_first_segment(
    state: Any, mask: Any, border: int, footprints: Any, footprint_sizes: Any, heads: Any, pivots: Any
) -> Any:
    """Draw the first segment of a path: (degree, y and x of its start), or degree -1 where none fits."""
    for _ in range(TRIALS):
        degree = _below(state, DEGREES)
        count = footprint_sizes[degree]
        y, x = _random_fit(state, mask, border, footprints[degree], count) if count else (-1, -1)
        if y < 0:
            return -1, 0, 0
        if _continues_inside(y, x, degree, heads, pivots, len(mask)):
            return degree, y, x
    return -1, 0, 0


@njit(cache=True, nogil=True)
def _continues_inside(y: int, x: int, degree: int, heads: Any, pivots: Any, size: int) -> bool:
    """Whether the end of a first segment, and the pivot behind it, are in the image."""
    a, b = heads[degree, 0, y + OUTSIDE], heads[degree, 1, x + OUTSIDE]
    if not _inside(a, b, size):
        return False
    return _inside(pivots[degree, 0, a + OUTSIDE], pivots[degree, 1, b + OUTSIDE], size)


@njit(cache=True, nogil=True)
def _start_path(path: Any, y: int, x: int, degree: int, heads: Any, pivots: Any) -> None:
    """Set a path (y and x of its pivot, orientation) to that of its first segment."""
    path[0] = pivots[degree, 0, heads[degree, 0, y + OUTSIDE] + OUTSIDE]
    path[1] = pivots[degree, 1, heads[degree, 1, x + OUTSIDE] + OUTSIDE]
    path[2] = degree


@njit(cache=True, nogil=True)
def _next_segment(
    state: Any, mask: Any, path: Any, ring: Any, count: int, weights: Any, disc: Any, disc_size: int, masks: Any
) -> int:
    """Draw the pixel of the ring around a path's pivot where its next segment ends; -1 where it is at a dead end."""
    size, total = len(mask), 0
    sums = np.empty(count, np.int64)
    for k in range(count):
        y, x = path[0] + ring[k, 0], path[1] + ring[k, 1]
        if weights[path[2], k] and _inside(y, x, size):
            occupied = np.int64(0)
            for d in range(disc_size):
                a, b = y + disc[d, 0], x + disc[d, 1]
                if _inside(a, b, size):
                    occupied = max(occupied, np.int64(mask[a, b]))
            total += (255 - occupied) * weights[path[2], k]
        sums[k] = total
    if total <= DEAD_END:
        return -1
    for _ in range(TRIALS):
        threshold, k = _below_large(state, total), 0
        while sums[k] <= threshold:
            k += 1
        if not _collides(mask, masks[DEGREES + k], path[0] + ring[k, 0], path[1] + ring[k, 1]):
            return k
    return -1


@njit(cache=True, nogil=True)
def draw(
    seed: int, first: int, sizes: Any, lines: Any, masks: Any, footprints: Any, footprint_sizes: Any,
    heads: Any, pivots: Any, steps: Any, rings: Any, ring_sizes: Any, weights: Any, discs: Any, disc_sizes: Any,
    seconds: Any, marker: Any, ranks: Any, levels: Any, images: Any, facts: Any,
) -> None:  # fmt: skip
    """Draw the images `first`, `first + 1`, ... of a seed into `images`, and what is in each into `facts`.

    `sizes` are the segments of a target path and of a distractor, the number of distractors, the padding, and the
    border of the first path's start. The facts are label, margin, the markers' y, x, y, x, distractors and attempts.
    """
    segments, distractor_segments, distractors, padding, border = sizes
    size = images.shape[1]
    state = np.empty(1, np.uint64)
    canvas = np.empty((size, size), np.int64)
    mask, saved_mask = np.empty((size, size), np.uint8), np.empty((size, size), np.uint8)
    # of each target path: its pivot (y, x) and orientation; its last segment (patch, y, x), which is not in the mask
    # yet; where it starts (y, x)
    paths, last, starts = np.empty((2, 3), np.int64), np.empty((2, 3), np.int64), np.empty((2, 2), np.int64)
    # the segments (patch, y, x) of a distractor, and of both target paths in turn
    distractor, targets = np.empty((distractor_segments, 3), np.int64), np.empty((2 * segments, 3), np.int64)
    for i in range(len(images)):
        state[0] = _mix(_mix(np.uint64(seed) + _GOLDEN) ^ (np.uint64(first + i) * _GOLDEN + _B))
        label, m = _below(state, 2), _below(state, len(lines))  # m: index of the margin
        attempts, complete = 0, False
        while not complete:
            attempts += 1
            mask[:] = 255
            mask[padding : size - padding, padding : size - padding] = 0
            degree, y, x = _draw_first_segment(
                state, mask, border, footprints[m], footprint_sizes[m], heads, pivots[m]
            )  # fmt: skip
            if degree < 0:
                continue
            for p in range(2):
                if p == 1:  # on a circle around the start of the first path; the two may overlap
                    starts_inside = False
                    for _ in range(TRIALS):
                        degree, turn = _below(state, DEGREES), _below(state, 360)
                        y, x = seconds[turn, 0, starts[0, 0] + OUTSIDE], seconds[turn, 1, starts[0, 1] + OUTSIDE]
                        if _continues_inside(y, x, degree, heads, pivots[m], size):
                            starts_inside = True
                            break
                    if not starts_inside:
                        break
                starts[p, 0], starts[p, 1] = y, x
                last[p, 0], last[p, 1], last[p, 2] = degree, y, x
                _start_path(paths[p], y, x, degree, heads, pivots[m])
                targets[p] = last[p]
                complete = p == 1
            for s in range(2, 2 * segments):
                if not complete:
                    break
                complete = _grow(
                    state, mask, paths[s % 2], last[s % 2], steps[m], rings[m], ring_sizes[m], weights[m],
                    discs[m], disc_sizes[m], masks[m],
                )  # fmt: skip
                targets[s] = last[s % 2]
        # the last segment of the first path stays out of the mask, as in the original
        _stamp(mask, masks[m, last[1, 0]], last[1, 1], last[1, 2])
        canvas[:] = 0
        for s in range(len(targets)):
            _paint(canvas, lines[m, targets[s, 0]], targets[s, 1], targets[s, 2], ranks[0])
        origin = _below(state, 2)
        facts[i, 0], facts[i, 1] = label, m
        facts[i, 2], facts[i, 3] = starts[origin, 0], starts[origin, 1]
        end = origin if label == 1 else 1 - origin
        facts[i, 4], facts[i, 5] = last[end, 1], last[end, 2]
        drawn = 0
        for _ in range(distractors):
            for _ in range(DISTRACTOR_TRIALS):
                saved_mask[:] = mask
                if _grow_distractor(
                    state, mask, paths[0], last[0], distractor, footprints[m], footprint_sizes[m], heads, pivots[m],
                    steps[m], rings[m], ring_sizes[m], weights[m], discs[m], disc_sizes[m], masks[m],
                ):  # fmt: skip
                    for s in range(distractor_segments):
                        _paint(canvas, lines[m, distractor[s, 0]], distractor[s, 1], distractor[s, 2], ranks[1])
                    drawn += 1
                    break
                mask[:] = saved_mask
        facts[i, 6], facts[i, 7] = drawn, attempts
        for k in range(2):
            _paint(canvas, marker, facts[i, 2 + 2 * k], facts[i, 3 + 2 * k], ranks[2])
        brightest = canvas.max()
        for a in range(size):
            for b in range(size):
                images[i, a, b] = levels[brightest, canvas[a, b]]


@njit(cache=True, nogil=True)
def _grow(
    state: Any, mask: Any, path: Any, last: Any, steps: Any, ring: Any, count: int, weights: Any, disc: Any,
    disc_size: int, masks: Any,
) -> bool:  # fmt: skip
    """Add a segment to a path: `last` becomes the new segment, and the mask gets the one before it.

    False at a dead end.
    """
    path[0], path[1] = steps[path[2], 0, path[0] + OUTSIDE], steps[path[2], 1, path[1] + OUTSIDE]
    k = _next_segment(state, mask, path, ring, count, weights, disc, disc_size, masks)
    if k < 0:
        return False
    _stamp(mask, masks[last[0]], last[1], last[2])
    last[0], last[1], last[2] = DEGREES + k, path[0] + ring[k, 0], path[1] + ring[k, 1]
    path[2] = DEGREES + k
    return True


@njit(cache=True, nogil=True)
def _grow_distractor(
    state: Any, mask: Any, path: Any, last: Any, distractor: Any, footprints: Any, footprint_sizes: Any, heads: Any,
    pivots: Any, steps: Any, ring: Any, count: int, weights: Any, disc: Any, disc_size: int, masks: Any,
) -> bool:  # fmt: skip
    """Grow a distractor where there is room, and write its segments into `distractor`.

    False where it comes to a dead end; the mask then has the segments before it.
    """
    free = 0
    for value in mask.flat:
        free += value <= FREE
    if free * 100 < mask.size:
        return False
    degree, y, x = _draw_first_segment(state, mask, 1, footprints, footprint_sizes, heads, pivots)
    if degree < 0:
        return False
    last[0], last[1], last[2] = degree, y, x
    _start_path(path, y, x, degree, heads, pivots)
    distractor[0] = last
    for s in range(1, len(distractor)):
        if not _grow(state, mask, path, last, steps, ring, count, weights, disc, disc_size, masks):
            return False
        distractor[s] = last
    _stamp(mask, masks[last[0]], last[1], last[2])
    return True
