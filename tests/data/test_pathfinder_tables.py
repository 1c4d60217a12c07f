"""The lookup tables of Pathfinder: where a path goes next, and which first segments there are."""

import numpy as np

from cab.data.pathfinder_tables import DEGREES, ONE, published_parameters, tables


def test_a_path_prefers_to_go_straight_on() -> None:
    t = tables(published_parameters(64))
    ring = t.ring[0, : t.ring_sizes[0]]
    directions = np.arctan2(ring[:, 0], ring[:, 1])
    for o in (DEGREES // 2, DEGREES // 2 + 60):  # 0 and 60 degrees
        turn = np.abs(np.angle(np.exp(1j * (directions - (o - 180) * np.pi / 180))))
        expected = np.where(turn * 1.8 < np.pi / 2, np.cos(turn * 1.8) ** 2, 0) * ONE
        assert np.abs(t.weights[0, o, : len(ring)] - expected).max() <= 1


def test_first_segments_whose_footprint_leaves_the_image_in_a_corner_do_not_occur() -> None:
    """The original's quirk: its dilation gives -infinity there, and it takes the image for full."""
    sizes = tables(published_parameters(32)).footprint_sizes[0]
    assert (sizes > 0).sum() == 30
