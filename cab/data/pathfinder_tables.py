"""Lookup tables of Pathfinder's drawings: patches of lines and masks by orientation, and where a path may go next.

The first segment of a path has an orientation in whole degrees. Every later one has the direction from a pivot to one
of the few pixels on a ring around it. Each orientation's patch is drawn once, as in the original: a line at `ANTIALIAS`
times the resolution, dilated by a disc for the mask, and both reduced with Pillow's Lanczos filter. Everything after
these tables is computed in integers.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, pi, sin
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

DEGREES = 360  # the first orientations are -180, ..., 179 degrees; the others are the pixels of the ring
ONE = 1 << 20  # the weight of going straight on
ANTIALIAS = 2
OUTSIDE = 64  # how far outside the image a coordinate may be


@dataclass(frozen=True)
class Parameters:
    """The parameters of one image size and difficulty (LRA's lra_benchmarks/data/pathfinder.py, under other names)."""

    size: int
    segments: int  # of each of the two target paths
    distractor_segments: int
    distractors: int
    length: int  # of a segment
    thickness: float
    margins: tuple[int, ...]  # between segments; one is drawn for each image
    padding: int  # pixels at each edge that paths avoid
    seed_distance: int  # between the starts of the two target paths
    marker_radius: float
    continuity: float  # a turn is multiplied by it before its weight is computed
    target_contrast: int  # in hundredths of a marker's
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


def published_parameters(size: int, difficulty: str = "hard") -> Parameters:
    """Return the published parameters of an image size and a difficulty."""
    total, length, thickness, margins, padding, seed_distance, marker, continuity, *contrasts = _SIZES[size]
    target_contrast, distractor_contrast = contrasts
    segments = DIFFICULTIES[difficulty][0]
    distractor_segments = segments // 3
    return Parameters(
        size, segments, distractor_segments, total // distractor_segments, length, thickness, margins, padding,
        seed_distance, marker, continuity, target_contrast, distractor_contrast,
    )  # fmt: skip


@dataclass(frozen=True)
class Tables:
    """Integer arrays. `o` is an orientation; offsets are (y, x); shorter lists of offsets are padded to the longest."""

    lines: Array  # (margins, o, patch, patch): 0 to 255, with the line's start in the middle
    masks: Array  # (margins, o, patch, patch): the pixels around a line that must stay free of others
    footprints: Array  # (margins, degree, longest, 2): offsets that must be free around a first segment's start
    footprint_sizes: Array  # (margins, degree): 0 where no first segment has the orientation
    heads: Array  # (degree, 2, coordinate + OUTSIDE): the end of a first segment that starts there
    pivots: Array  # (margins, degree, 2, coordinate + OUTSIDE): the pivot behind that end
    steps: Array  # (margins, o, 2, coordinate + OUTSIDE): the pivot after one
    ring: Array  # (margins, longest, 2): offsets from a pivot to where a segment may end
    ring_sizes: Array  # (margins,)
    weights: Array  # (margins, o, longest): of each pixel of the ring after orientation o; at most ONE
    discs: Array  # (margins, longest, 2): the offsets within the margin's radius
    disc_sizes: Array  # (margins,)
    seconds: Array  # (degree, 2, coordinate + OUTSIDE): the second path's start, in that direction from the first's
    marker: Array  # (patch, patch)
    ranks: Array  # (3, 256): rank of the brightness of a target, a distractor and a marker where its patch is 0 to 255
    levels: Array  # (rank of the image's brightest pixel, rank of a pixel): the byte of the pixel


@lru_cache(4)
def tables(parameters: Parameters) -> Tables:
    """Make the tables of some parameters, in about a second."""
    degrees = np.arange(-180, 180) * pi / 180
    rings = [_ring(parameters.length + margin) for margin in parameters.margins]
    longest = max(map(len, rings))
    coordinates = np.arange(-OUTSIDE, parameters.size + OUTSIDE)
    reach = parameters.length + ceil(parameters.thickness) + max(parameters.margins)
    count, side = len(parameters.margins), 2 * reach + 1
    lines = np.zeros((count, DEGREES + longest, side, side), np.uint8)
    masks, steps = np.zeros_like(lines), np.zeros((count, DEGREES + longest, 2, len(coordinates)), np.int64)
    weights = np.zeros((count, DEGREES + longest, longest), np.int64)
    pivots = np.zeros((count, DEGREES, 2, len(coordinates)), np.int64)
    margin_footprints: list[tuple[Array, Array]] = []
    for m, (margin, ring) in enumerate(zip(parameters.margins, rings, strict=True)):
        directions = np.arctan2(ring[:, 0], ring[:, 1])
        edge = reach - parameters.length - ceil(parameters.thickness) - margin
        inner = slice(edge, side - edge)
        # a first segment is drawn from its start, a later one from its end
        for o, orientation in enumerate([*degrees, *map(_flipped, directions)]):
            lines[m, o, inner, inner], masks[m, o, inner, inner] = _patch(orientation, parameters, margin)
        for o, orientation in enumerate([*degrees, *directions]):
            steps[m, o] = _moved(orientation, parameters.length + 2 * margin, coordinates)
            weights[m, o, : len(ring)] = _weights(orientation, directions, parameters.continuity)
        pivots[m] = [_moved(_flipped(d), parameters.length + margin, coordinates) for d in degrees]
        footprints_by_degree = [_footprint(masks[m, o], reach, parameters.length + margin) for o in range(DEGREES)]
        margin_footprints.append(_padded(footprints_by_degree))
    most_offsets = max(offsets.shape[1] for offsets, _ in margin_footprints)
    footprints = np.zeros((count, DEGREES, most_offsets, 2), np.int64)
    for m, (offsets, _) in enumerate(margin_footprints):
        footprints[m, :, : offsets.shape[1]] = offsets
    discs, disc_sizes = _padded([_disc(margin) for margin in parameters.margins])
    ring_offsets, ring_sizes = _padded(rings)
    turns = np.arange(360) * pi / 180
    ranks, levels = _brightness(parameters)
    seconds = np.stack([[coordinates + parameters.seed_distance * f(turn) for f in (sin, cos)] for turn in turns])
    return Tables(
        lines=lines,
        masks=masks,
        footprints=footprints,
        footprint_sizes=np.stack([sizes for _, sizes in margin_footprints]),
        heads=np.stack([_moved(d, parameters.length, coordinates) for d in degrees]),
        pivots=pivots,
        steps=steps,
        ring=ring_offsets,
        ring_sizes=ring_sizes,
        weights=weights,
        discs=discs,
        disc_sizes=disc_sizes,
        seconds=np.round(seconds).astype(np.int64),
        marker=_marker(parameters.marker_radius),
        ranks=ranks,
        levels=levels,
    )


def _moved(orientation: float, distance: float, start: Array) -> Array:
    """Return the coordinates `distance` further in the direction of an orientation, rounded up: (2, coordinates).

    Floating-point errors just above a whole number are rounded up too, as in the original.
    """
    return np.stack([np.ceil(start + distance * f(orientation)) for f in (sin, cos)]).astype(np.int64)


def _flipped(orientation: float) -> float:
    return orientation + pi if orientation < 0 else orientation - pi


def _ring(radius: int) -> Array:
    """Return the pixels that a circle passes through, by points at angles of 1 / radius: (pixels, 2)."""
    angle = np.arange(0, 360, 360 / (2 * radius * pi)) * pi / 180
    points = np.floor(np.round(radius * np.stack([np.sin(angle), np.cos(angle)], 1), 9)).astype(np.int64)
    return np.unique(points, axis=0)


def _weights(orientation: float, directions: Array, continuity: float) -> Array:
    """Return the squared cosine of the turn from an orientation to each direction, in units of 1 / `ONE`.

    The turn is multiplied by `continuity`, up to a right angle.
    """
    turn = np.abs(directions - orientation)
    turn = np.minimum(np.minimum(turn, 2 * pi - turn) * continuity, pi / 2)
    return np.round(np.cos(turn) ** 2 * ONE).astype(np.int64)


def _patch(orientation: float, parameters: Parameters, margin: int) -> tuple[Array, Array]:
    """Draw a line from the middle, and its mask: the line dilated by a disc of the margin's radius."""
    from PIL import Image, ImageDraw

    reach = parameters.length + ceil(parameters.thickness) + margin
    middle, side = reach * ANTIALIAS, 2 * reach * ANTIALIAS + 1
    y, x = _moved(orientation, parameters.length * ANTIALIAS, np.array(middle)).tolist()
    canvas = Image.new("F", (side, side), "black")
    ends = [(middle, middle), (x, y)]
    ImageDraw.Draw(canvas).line(ends, fill="white", width=round(parameters.thickness * ANTIALIAS))
    line = np.asarray(canvas) > 0
    dilated = np.zeros_like(line)
    border = margin * ANTIALIAS
    framed = np.pad(line, border)
    for dy, dx in _disc(border):
        dilated |= framed[border + dy : border + dy + side, border + dx : border + dx + side]
    return _reduced(line, 2 * reach + 1), _reduced(dilated, 2 * reach + 1)


def _reduced(pixels: Array, side: int) -> Array:
    """Resize boolean pixels to bytes (side, side) with Pillow's Lanczos filter."""
    from PIL import Image

    picture = Image.fromarray(pixels.astype(np.uint8) * np.uint8(255))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))


def _disc(radius: int) -> Array:
    """Return the offsets within a radius: (offsets, 2)."""
    span = np.arange(-radius, radius + 1)
    y, x = np.meshgrid(span, span, indexing="ij")
    return np.argwhere(y**2 + x**2 <= radius**2) - radius


def _footprint(mask: Array, reach: int, half: int) -> Array:
    """Return the offsets, within `half`, of the pixels whose mask is full; none where the orientation is unusable.

    They are one pixel further down and to the right than the mask, because the original's anchor is off by one.
    """
    offsets = np.argwhere(mask == 255) - reach + 1
    offsets = offsets[(np.abs(offsets) <= half).all(1)]
    # in the original an orientation is unusable whose footprint, at a corner of the image, is outside it altogether
    outside = [(offsets * sign < 0).any(1).all() for sign in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    return offsets[:0] if any(outside) else offsets


def _marker(radius: float) -> Array:
    """Draw a disc: bytes (side, side)."""
    reach = ceil(radius) + 3  # the Lanczos filter reaches 3 pixels
    span = np.arange((2 * reach + 1) * ANTIALIAS) - reach * ANTIALIAS
    inside = span[:, None] ** 2 + span[None, :] ** 2 <= (radius * ANTIALIAS) ** 2
    return _reduced(inside, 2 * reach + 1)


def _brightness(parameters: Parameters) -> tuple[Array, Array]:
    """Return `ranks` and `levels`: the ranks of all brightnesses that occur, and their bytes.

    An image is stretched so that its brightest pixel is 255; black, which it always has, stays 0. Lines are in single
    precision, as in the original: with a contrast of 1.5 every other byte depends on its rounding.
    """
    shares = np.arange(256) / 255
    contrasts = (parameters.target_contrast, parameters.distractor_contrast)
    lines = [(shares * (contrast / 100)).astype(np.float32) for contrast in contrasts]
    values, ranks = np.unique(np.stack([*lines, shares]).astype(np.float64), return_inverse=True)
    brightest = np.where(values > 0, values, 1)[:, None]
    return ranks.reshape(3, 256), (np.minimum(values * (255 / brightest), 255) + 0.5).astype(np.uint8)


def _padded(offsets: list[Array]) -> tuple[Array, Array]:
    """Put lists of offsets of different lengths into one array (lists, longest, 2), and return their lengths."""
    sizes = np.array([len(each) for each in offsets])
    table = np.zeros((len(offsets), max(1, int(sizes.max())), 2), np.int64)
    for row, each in zip(table, offsets, strict=True):
        row[: len(each)] = each
    return table, sizes
