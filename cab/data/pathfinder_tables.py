"""What Pathfinder's drawings are made of: patches of lines and masks by orientation, and where a path may go next.

An orientation is a whole degree (a path's first segment) or the direction from a pivot to one of a few pixels around
it (every later one), so each patch is drawn once, with the original's own steps: a line at `ANTIALIAS` times the
resolution, dilated by a disc for the mask, both reduced with Pillow's Lanczos filter. All is integers after that.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, pi, sin
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

DEGREES = 360  # orientations -180, ..., 179 come first, then one for each pixel of the ring
ONE = 1 << 20  # weight of going straight on
ANTIALIAS = 2
OUTSIDE = 64  # how far beyond the image a coordinate may be


@dataclass(frozen=True)
class Recipe:
    """The parameters of one image size and difficulty (LRA's lra_benchmarks/data/pathfinder.py; names are ours)."""

    size: int
    segments: int  # of each of the two target paths
    distractor_segments: int
    distractors: int
    length: int  # of a segment
    thickness: float
    margins: tuple[int, ...]  # between segments; one is drawn for each image
    padding: int
    seed_distance: int
    marker_radius: float
    continuity: float
    target_contrast: int  # in hundredths
    distractor_contrast: int


# size: (distractor segments in all, length, thickness, margins, padding, seed distance, marker, continuity, contrasts)
_SIZES: dict[int, tuple[int, int, float, tuple[int, ...], int, int, float, float, int, int]] = {
    32: (20, 2, 0.5, (1,), 1, 7, 1.5, 1.0, 150, 200),  # 0.75 * 2 and 2: distractors are brighter
    64: (22, 5, 1.0, (1,), 1, 12, 2.5, 1.8, 80, 80),
    128: (35, 5, 1.5, (2, 3), 1, 20, 3.0, 1.8, 90, 90),
    256: (30, 5, 2.0, (3,), 22, 27, 5.0, 1.8, 100, 100),
}
SIZES = tuple(_SIZES)
# difficulty: (segments of a target path, the release's folder)
DIFFICULTIES = {
    "easy": (6, "curv_baseline"),
    "intermediate": (9, "curv_contour_length_9"),
    "hard": (14, "curv_contour_length_14"),
}


def recipe(size: int, difficulty: str = "hard") -> Recipe:
    """Return the published parameters."""
    total, length, thickness, margins, padding, seed_distance, marker, continuity, bright, other = _SIZES[size]
    segments = DIFFICULTIES[difficulty][0]
    short = segments // 3
    return Recipe(
        size, segments, short, total // short, length, thickness, margins, padding, seed_distance, marker, continuity,
        bright, other,
    )  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """Integer arrays; the first axis is the margin, `o` an orientation, offsets are (y, x)."""

    lines: Array  # (margins, o, patch, patch), 0 to 255, the line's start in the middle
    masks: Array
    footprints: Array  # (margins, degree, most, 2): what must be free around a first segment's start; none: unusable
    footprint_sizes: Array
    heads: Array  # (degree, 2, coordinate + OUTSIDE): where a first segment that starts there ends
    pivots: Array  # (margins, degree, 2, coordinate + OUTSIDE): the pivot behind that end
    steps: Array  # (margins, o, 2, coordinate + OUTSIDE): the pivot after one
    ring: Array  # (margins, most, 2): from a pivot to where a segment may end
    ring_sizes: Array
    weights: Array  # (margins, o, most): of ending there after orientation o, in units of 1 / ONE
    discs: Array  # (margins, most, 2)
    disc_sizes: Array
    seconds: Array  # (degree, 2, coordinate + OUTSIDE): where the second path starts if the first starts there
    marker: Array  # (patch, patch)
    ranks: Array  # (3, 256): brightness of a target, a distractor and a marker where its patch is 0 to 255
    levels: Array  # (rank, rank): the byte of a pixel where the brightest has the first rank and it the second


@lru_cache(4)
def tables(wanted: Recipe) -> Tables:
    """Make the tables of a recipe, in about a second."""
    degrees = np.arange(-180, 180) * pi / 180
    rings = [_ring(wanted.length + margin) for margin in wanted.margins]
    most = max(map(len, rings))
    coordinates = np.arange(-OUTSIDE, wanted.size + OUTSIDE)
    reach = wanted.length + ceil(wanted.thickness) + max(wanted.margins)
    count, side = len(wanted.margins), 2 * reach + 1
    lines = np.zeros((count, DEGREES + most, side, side), np.uint8)
    masks, steps = np.zeros_like(lines), np.zeros((count, DEGREES + most, 2, len(coordinates)), np.int64)
    weights = np.zeros((count, DEGREES + most, most), np.int64)
    pivots = np.zeros((count, DEGREES, 2, len(coordinates)), np.int64)
    prints: list[list[Array]] = []
    for m, (margin, ring) in enumerate(zip(wanted.margins, rings, strict=True)):
        directions = np.arctan2(ring[:, 0], ring[:, 1])
        edge = reach - wanted.length - ceil(wanted.thickness) - margin
        inner = slice(edge, side - edge)
        # a first segment is drawn from its start, a later one from its end
        for o, drawn in enumerate([*degrees, *map(_flipped, directions)]):
            lines[m, o, inner, inner], masks[m, o, inner, inner] = _patch(drawn, wanted, margin)
        for o, direction in enumerate([*degrees, *directions]):
            steps[m, o] = _moved(direction, wanted.length + 2 * margin, coordinates)
            weights[m, o, : len(ring)] = _weights(direction, directions, wanted.continuity)
        pivots[m] = [_moved(_flipped(d), wanted.length + margin, coordinates) for d in degrees]
        prints.append([_footprint(masks[m, o], reach, wanted.length + margin) for o in range(DEGREES)])
    stacked = [_stacked(each) for each in prints]
    widest = max(each.shape[1] for each, _ in stacked)
    footprints = np.zeros((count, DEGREES, widest, 2), np.int64)
    for m, (each, _) in enumerate(stacked):
        footprints[m, :, : each.shape[1]] = each
    discs, disc_sizes = _stacked([_disc(margin) for margin in wanted.margins])
    ring_offsets, ring_sizes = _stacked(rings)
    turns = np.arange(360) * pi / 180
    ranks, levels = _brightness(wanted)
    seconds = np.stack([[coordinates + wanted.seed_distance * f(turn) for f in (sin, cos)] for turn in turns])
    return Tables(
        lines=lines,
        masks=masks,
        footprints=footprints,
        footprint_sizes=np.stack([sizes for _, sizes in stacked]),
        heads=np.stack([_moved(d, wanted.length, coordinates) for d in degrees]),
        pivots=pivots,
        steps=steps,
        ring=ring_offsets,
        ring_sizes=ring_sizes,
        weights=weights,
        discs=discs,
        disc_sizes=disc_sizes,
        seconds=np.round(seconds).astype(np.int64),
        marker=_marker(wanted.marker_radius),
        ranks=ranks,
        levels=levels,
    )


def _moved(orientation: float, distance: float, start: Array) -> Array:
    """Go from each coordinate, down and to the right, and round up.

    A rounding error just above a pixel counts, as in the original; it depends on the coordinate.
    """
    return np.stack([np.ceil(start + distance * f(orientation)) for f in (sin, cos)]).astype(np.int64)


def _flipped(orientation: float) -> float:
    return orientation + pi if orientation < 0 else orientation - pi


def _ring(radius: int) -> Array:
    """Return the pixels that a circle passes through, one sample each 1 / radius."""
    angle = np.arange(0, 360, 360 / (2 * radius * pi)) * pi / 180
    points = np.floor(np.round(radius * np.stack([np.sin(angle), np.cos(angle)], 1), 9)).astype(np.int64)
    return np.unique(points, axis=0)


def _weights(last: float, directions: Array, continuity: float) -> Array:
    """Return the squared cosine of the turn, which `continuity` exaggerates up to a right angle."""
    turn = np.abs(directions - last)
    turn = np.minimum(np.minimum(turn, 2 * pi - turn) * continuity, pi / 2)
    return np.round(np.cos(turn) ** 2 * ONE).astype(np.int64)


def _patch(orientation: float, wanted: Recipe, margin: int) -> tuple[Array, Array]:
    """Draw a line from the middle, and what nothing else may touch."""
    from PIL import Image, ImageDraw

    reach = wanted.length + ceil(wanted.thickness) + margin
    middle, side = reach * ANTIALIAS, 2 * reach * ANTIALIAS + 1
    y, x = _moved(orientation, wanted.length * ANTIALIAS, np.array(middle)).tolist()
    fine = Image.new("F", (side, side), "black")
    line = [(middle, middle), (x, y)]
    ImageDraw.Draw(fine).line(line, fill="white", width=round(wanted.thickness * ANTIALIAS))
    drawn = np.asarray(fine) > 0
    wide = np.zeros_like(drawn)
    border = margin * ANTIALIAS
    framed = np.pad(drawn, border)
    for dy, dx in _disc(border):
        wide |= framed[border + dy : border + dy + side, border + dx : border + dx + side]
    return _reduced(drawn, 2 * reach + 1), _reduced(wide, 2 * reach + 1)


def _reduced(fine: Array, side: int) -> Array:
    from PIL import Image

    picture = Image.fromarray(fine.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))


def _disc(radius: int) -> Array:
    span = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(span, span, indexing="ij")
    return np.argwhere(y**2 + x**2 <= radius**2) - radius


def _footprint(mask: Array, reach: int, half: int) -> Array:
    """Return the offsets of a full mask within `half`, a pixel down and right: the original's anchor is off by one."""
    offsets = np.argwhere(mask == 255) - reach + 1
    offsets = offsets[(np.abs(offsets) <= half).all(1)]
    # the original takes the dilated picture for unusable where, in a corner, the footprint lies outside altogether
    corners = [(offsets * sign < 0).any(1).all() for sign in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    return offsets[:0] if any(corners) else offsets


def _marker(radius: float) -> Array:
    reach = ceil(radius) + 3  # the filter reaches 3 pixels
    span = np.arange((2 * reach + 1) * ANTIALIAS) - reach * ANTIALIAS
    inside = span[:, None] ** 2 + span[None, :] ** 2 <= (radius * ANTIALIAS) ** 2
    return _reduced(inside, 2 * reach + 1)


def _brightness(wanted: Recipe) -> tuple[Array, Array]:
    """Rank all brightnesses that occur, and stretch them from black, which is always there, to the brightest.

    Lines are single precision in the original; with a contrast of 1.5 every other byte depends on its rounding.
    """
    shares = np.arange(256) / 255
    lines = [(shares * (c / 100)).astype(np.float32) for c in (wanted.target_contrast, wanted.distractor_contrast)]
    values, ranks = np.unique(np.stack([*lines, shares]).astype(np.float64), return_inverse=True)
    brightest = np.where(values > 0, values, 1)[:, None]
    return ranks.reshape(3, 256), (np.minimum(values * (255 / brightest), 255) + 0.5).astype(np.uint8)


def _stacked(parts: list[Array]) -> tuple[Array, Array]:
    """Stack lists of offsets of different lengths, and say how long each is."""
    sizes = np.array([len(part) for part in parts])
    whole = np.zeros((len(parts), max(1, int(sizes.max())), 2), np.int64)
    for row, part in zip(whole, parts, strict=True):
        row[: len(part)] = part
    return whole, sizes
