"""Pathfinder in integers, compiled: import it where images are made, never at the top of a module (numba is slow).

An image depends on seed and index alone: its numbers are a SplitMix64 stream of its own. Masks are 0 to 255; a pixel is
free up to 76 (0.3), and two masks collide where they add up to 459 (1.8).
"""

# mypy: disable-error-code="untyped-decorator"

from typing import Any

import numpy as np
from numba import njit

_GOLDEN, _A, _B = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
DEGREES, OUTSIDE, FREE, COLLIDE = 360, 64, 76, 459
DEAD_END = 26_738  # least weight of a ring, 1e-4 * 255 * 2**20
TRIALS = 3  # of a segment
DISTRACTOR_TRIALS = 5
GUESSES = 64  # places tried at random before all free ones are listed; which of the two is done changes no probability


@njit(cache=True, nogil=True, inline="always")
def _mixed(state: Any) -> Any:
    z = (state ^ (state >> np.uint64(30))) * _A
    z = (z ^ (z >> np.uint64(27))) * _B
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _below(state: Any, limit: int) -> int:
    state[0] += _GOLDEN
    return np.int64(((_mixed(state[0]) >> np.uint64(32)) * np.uint64(limit)) >> np.uint64(32))  # type: ignore


@njit(cache=True, nogil=True)
def _below_large(state: Any, limit: int) -> int:
    state[0] += _GOLDEN
    return np.int64(_mixed(state[0]) % np.uint64(limit))  # type: ignore


@njit(cache=True, nogil=True)
def _inside(y: int, x: int, size: int) -> bool:
    return 0 <= y < size and 0 <= x < size


@njit(cache=True, nogil=True)
def _stamp(mask: Any, patch: Any, y: int, x: int) -> None:
    """Raise the mask to the patch around (y, x)."""
    size, reach = len(mask), len(patch) // 2
    left, right = max(0, reach - x), min(len(patch), size + reach - x)
    for i in range(max(0, reach - y), min(len(patch), size + reach - y)):
        row, new = mask[y - reach + i, x - reach + left : x - reach + right], patch[i, left:right]
        for j in range(len(new)):
            row[j] = max(row[j], new[j])


@njit(cache=True, nogil=True)
def _paint(canvas: Any, patch: Any, y: int, x: int, ranks: Any) -> None:
    """Raise the canvas to the patch's brightness around (y, x)."""
    size, reach = len(canvas), len(patch) // 2
    for i in range(max(0, reach - y), min(len(patch), size + reach - y)):
        for j in range(max(0, reach - x), min(len(patch), size + reach - x)):
            value = ranks[patch[i, j]]
            if value > canvas[y - reach + i, x - reach + j]:
                canvas[y - reach + i, x - reach + j] = value


@njit(cache=True, nogil=True)
def _collides(mask: Any, patch: Any, y: int, x: int) -> bool:
    size, reach = len(mask), len(patch) // 2
    left, right = max(0, reach - x), min(len(patch), size + reach - x)
    for i in range(max(0, reach - y), min(len(patch), size + reach - y)):
        row, new = mask[y - reach + i, x - reach + left : x - reach + right], patch[i, left:right]
        most = np.uint16(0)
        for j in range(len(new)):
            most = max(most, np.uint16(np.uint16(row[j]) + np.uint16(new[j])))
        if most >= COLLIDE:
            return True
    return False


@njit(cache=True, nogil=True)
def _fits(mask: Any, border: int, footprint: Any, count: int, y: int, x: int) -> bool:
    """Whether the footprint around (y, x) meets free pixels alone; `border` pixels at each edge count as taken."""
    size = len(mask)
    for i in range(count):
        a, b = y + footprint[i, 0], x + footprint[i, 1]
        if _inside(a, b, size) and (
            a < border or a >= size - border or b < border or b >= size - border or mask[a, b] > FREE
        ):
            return False
    return True


@njit(cache=True, nogil=True)
def _place(state: Any, mask: Any, border: int, footprint: Any, count: int) -> Any:
    """Return one of the places where the footprint fits, all alike; (-1, -1) where there is none."""
    size = len(mask)
    for _ in range(GUESSES):
        place = _below(state, size * size)
        if _fits(mask, border, footprint, count, place // size, place % size):
            return place // size, place % size
    fitting = np.empty(size * size, np.int64)
    found = 0
    for y in range(size):
        for x in range(size):
            if _fits(mask, border, footprint, count, y, x):
                fitting[found] = y * size + x
                found += 1
    if found == 0:
        return -1, -1
    place = fitting[_below(state, found)]
    return place // size, place % size


@njit(cache=True, nogil=True)
def _first(state: Any, mask: Any, border: int, prints: Any, counts: Any, heads: Any, pivots: Any) -> Any:
    """Place a path's first segment: (degree, y, x of its start), or degree -1."""
    for _ in range(TRIALS):
        degree = _below(state, DEGREES)
        y, x = _place(state, mask, border, prints[degree], counts[degree]) if counts[degree] else (-1, -1)
        if y < 0:
            return -1, 0, 0
        if _starts(y, x, degree, heads, pivots, len(mask)):
            return degree, y, x
    return -1, 0, 0


@njit(cache=True, nogil=True)
def _starts(y: int, x: int, degree: int, heads: Any, pivots: Any, size: int) -> bool:
    a, b = heads[degree, 0, y + OUTSIDE], heads[degree, 1, x + OUTSIDE]
    if not _inside(a, b, size):
        return False
    return _inside(pivots[degree, 0, a + OUTSIDE], pivots[degree, 1, b + OUTSIDE], size)


@njit(cache=True, nogil=True)
def _begin(path: Any, y: int, x: int, degree: int, heads: Any, pivots: Any) -> None:
    path[0] = pivots[degree, 0, heads[degree, 0, y + OUTSIDE] + OUTSIDE]
    path[1] = pivots[degree, 1, heads[degree, 1, x + OUTSIDE] + OUTSIDE]
    path[2] = degree


@njit(cache=True, nogil=True)
def _next(
    state: Any, mask: Any, path: Any, ring: Any, count: int, weights: Any, disc: Any, disc_size: int, masks: Any
) -> int:
    """Choose the ring's pixel where a path goes next, or -1; `path` is pivot y and x, and orientation."""
    size, total = len(mask), 0
    sums = np.empty(count, np.int64)
    for k in range(count):
        y, x = path[0] + ring[k, 0], path[1] + ring[k, 1]
        if weights[path[2], k] and _inside(y, x, size):
            most = np.int64(0)
            for d in range(disc_size):
                a, b = y + disc[d, 0], x + disc[d, 1]
                if _inside(a, b, size):
                    most = max(most, np.int64(mask[a, b]))
            total += (255 - most) * weights[path[2], k]
        sums[k] = total
    if total <= DEAD_END:
        return -1
    for _ in range(TRIALS):
        rest, k = _below_large(state, total), 0
        while sums[k] <= rest:
            k += 1
        if not _collides(mask, masks[DEGREES + k], path[0] + ring[k, 0], path[1] + ring[k, 1]):
            return k
    return -1


@njit(cache=True, nogil=True)
def draw(
    seed: int, first: int, sizes: Any, lines: Any, masks: Any, prints: Any, print_sizes: Any,
    heads: Any, pivots: Any, steps: Any, rings: Any, ring_sizes: Any, weights: Any, discs: Any, disc_sizes: Any,
    seconds: Any, marker: Any, ranks: Any, levels: Any, images: Any, facts: Any,
) -> None:  # fmt: skip
    """Draw images first, first + 1, ... and note of each: label, margin, markers (y, x, y, x), distractors, attempts.

    `sizes`: segments of a target path and of a distractor, distractors, padding, border of the first seed.
    """
    segments, short, distractors, padding, border = sizes
    size = images.shape[1]
    state = np.empty(1, np.uint64)
    canvas = np.empty((size, size), np.int64)
    mask, kept = np.empty((size, size), np.uint8), np.empty((size, size), np.uint8)
    # of each path: pivot (y, x) and orientation; the last segment (patch, y, x), which its mask is not yet in
    paths, last, starts = np.empty((2, 3), np.int64), np.empty((2, 3), np.int64), np.empty((2, 2), np.int64)
    drawn, pair = np.empty((short, 3), np.int64), np.empty((2 * segments, 3), np.int64)
    for i in range(len(images)):
        state[0] = _mixed(_mixed(np.uint64(seed) + _GOLDEN) ^ (np.uint64(first + i) * _GOLDEN + _B))
        label, m = _below(state, 2), _below(state, len(lines))
        attempts, complete = 0, False
        while not complete:
            attempts += 1
            mask[:] = 255
            mask[padding : size - padding, padding : size - padding] = 0
            degree, y, x = _first(state, mask, border, prints[m], print_sizes[m], heads, pivots[m])
            if degree < 0:
                continue
            for p in range(2):
                if p == 1:  # anywhere around the first, over it too
                    found = False
                    for _ in range(TRIALS):
                        degree, turn = _below(state, DEGREES), _below(state, 360)
                        y, x = seconds[turn, 0, starts[0, 0] + OUTSIDE], seconds[turn, 1, starts[0, 1] + OUTSIDE]
                        if _starts(y, x, degree, heads, pivots[m], size):
                            found = True
                            break
                    if not found:
                        break
                starts[p, 0], starts[p, 1] = y, x
                last[p, 0], last[p, 1], last[p, 2] = degree, y, x
                _begin(paths[p], y, x, degree, heads, pivots[m])
                pair[p] = last[p]
                complete = p == 1
            for turn in range(2, 2 * segments):
                if not complete:
                    break
                complete = _grow(
                    state, mask, paths[turn % 2], last[turn % 2], steps[m], rings[m], ring_sizes[m], weights[m],
                    discs[m], disc_sizes[m], masks[m],
                )  # fmt: skip
                pair[turn] = last[turn % 2]
        _stamp(mask, masks[m, last[1, 0]], last[1, 1], last[1, 2])  # of the first path's end there is none, as it was
        canvas[:] = 0
        for s in range(len(pair)):
            _paint(canvas, lines[m, pair[s, 0]], pair[s, 1], pair[s, 2], ranks[0])
        origin = _below(state, 2)
        facts[i, 0], facts[i, 1] = label, m
        facts[i, 2], facts[i, 3] = starts[origin, 0], starts[origin, 1]
        end = origin if label == 1 else 1 - origin
        facts[i, 4], facts[i, 5] = last[end, 1], last[end, 2]
        made = 0
        for _ in range(distractors):
            for _ in range(DISTRACTOR_TRIALS):
                kept[:] = mask
                if _distractor(
                    state, mask, paths[0], last[0], drawn, prints[m], print_sizes[m], heads, pivots[m], steps[m],
                    rings[m], ring_sizes[m], weights[m], discs[m], disc_sizes[m], masks[m],
                ):  # fmt: skip
                    for s in range(short):
                        _paint(canvas, lines[m, drawn[s, 0]], drawn[s, 1], drawn[s, 2], ranks[1])
                    made += 1
                    break
                mask[:] = kept
        facts[i, 6], facts[i, 7] = made, attempts
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
    """Add a segment to a path: the mask takes the one before it, `last` becomes the new one."""
    path[0], path[1] = steps[path[2], 0, path[0] + OUTSIDE], steps[path[2], 1, path[1] + OUTSIDE]
    k = _next(state, mask, path, ring, count, weights, disc, disc_size, masks)
    if k < 0:
        return False
    _stamp(mask, masks[last[0]], last[1], last[2])
    last[0], last[1], last[2] = DEGREES + k, path[0] + ring[k, 0], path[1] + ring[k, 1]
    path[2] = DEGREES + k
    return True


@njit(cache=True, nogil=True)
def _distractor(
    state: Any, mask: Any, path: Any, last: Any, drawn: Any, prints: Any, print_sizes: Any, heads: Any, pivots: Any,
    steps: Any, ring: Any, count: int, weights: Any, disc: Any, disc_size: int, masks: Any,
) -> bool:  # fmt: skip
    """Grow a short path where there is room; its segments are in `drawn`, its masks in `mask` even if it fails."""
    free = 0
    for value in mask.flat:
        free += value <= FREE
    if free * 100 < mask.size:
        return False
    degree, y, x = _first(state, mask, 1, prints, print_sizes, heads, pivots)
    if degree < 0:
        return False
    last[0], last[1], last[2] = degree, y, x
    _begin(path, y, x, degree, heads, pivots)
    drawn[0] = last
    for s in range(1, len(drawn)):
        if not _grow(state, mask, path, last, steps, ring, count, weights, disc, disc_size, masks):
            return False
        drawn[s] = last
    _stamp(mask, masks[last[0]], last[1], last[2])
    return True
