"""Pathfinder: images depend on seed and index alone, follow the parameters, and are distributed as the original's."""

import hashlib
import os

import numpy as np
import pytest

from cab.data import pathfinder
from cab.data.pathfinder_tables import SIZES, published_parameters, tables

LABEL, MARGIN, Y, X, END_Y, END_X, DISTRACTORS, ATTEMPTS = range(8)
HARD = published_parameters(32)


def test_an_image_depends_on_seed_and_index_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images, facts = pathfinder.generate(3, 0, 200, HARD)
    part, _ = pathfinder.generate(3, 150, 20, HARD)
    assert (images[150:170] == part).all()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(5))
    monkeypatch.setattr(pathfinder, "_CHUNK", 7)
    other, other_facts = pathfinder.generate(3, 0, 200, HARD)
    assert (other == images).all() and (other_facts == facts).all()
    assert len({image.tobytes() for image in images}) == 200
    assert not (pathfinder.generate(4, 0, 1, HARD)[0] == images[0]).all()


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (32, "fc8830ca69cba6d1b492f82e57d469bd86ad19e9fdb04100f55465e3539ac43c"),
        (64, "e305822264fc9375437f9375b1e88c13eddd9ed40dc9967e0f5b70d20c3f9c00"),
        (128, "71a6d8f0b26579a95cada9504a607f583b4d86cc9aa63c43c03f59befd13df4a"),
        (256, "b32c589469f2567303963133e417c24f34ed6cedc938c251c4099ec25a87883b"),
    ],
)
def test_the_same_pixels_come_out_on_every_machine(size: int, digest: str) -> None:
    images, _ = pathfinder.generate(0, 0, 4, published_parameters(size))
    assert hashlib.sha256(images.tobytes()).hexdigest() == digest


def test_labels_are_known_without_drawing_and_balanced() -> None:
    _, facts = pathfinder.generate(5, 40, 200, HARD)
    assert (pathfinder.labels(5, 40, 200) == facts[:, LABEL]).all()
    assert abs(pathfinder.labels(5, 0, 100_000).mean() - 0.5) < 4.5 * 0.5 / 100_000**0.5


@pytest.mark.parametrize("size", SIZES)
def test_images_are_as_the_parameters_say(size: int) -> None:
    parameters = published_parameters(size)
    images, facts = pathfinder.generate(1, 0, 30, parameters)
    assert images.shape == (30, size, size) and images.dtype == np.uint8
    assert (images.reshape(30, -1).min(1) == 0).all() and (images.reshape(30, -1).max(1) == 255).all()
    assert (facts[:, MARGIN] < len(parameters.margins)).all() and (
        facts[:, DISTRACTORS] <= parameters.distractors
    ).all()
    # the first path starts in the middle of the image, the second around it
    reach = 2 * parameters.seed_distance
    near = parameters.seed_distance + 1
    marker = tables(parameters).marker
    bright = int(marker[len(marker) // 2, len(marker) // 2])
    assert (facts[:, [Y, X]] >= reach - near - 1).all() and (facts[:, [Y, X]] < size - reach + near).all()
    for image, fact in zip(images, facts, strict=True):
        # the contrasts are hundredths of the brightest, which is a marker's 100 or a distractor's
        brightest = max(100, parameters.distractor_contrast * bool(fact[DISTRACTORS]), parameters.target_contrast)
        for y, x in (fact[[Y, X]], fact[[END_Y, END_X]]):
            assert image[y, x] >= bright * 100 // brightest - 1


@pytest.mark.parametrize(
    ("difficulty", "segments", "distractor_segments", "distractors"), [("easy", 6, 2, 10), ("hard", 14, 4, 5)]
)
def test_lengths_follow_the_difficulty(
    difficulty: str, segments: int, distractor_segments: int, distractors: int
) -> None:
    parameters = published_parameters(32, difficulty)
    assert (parameters.segments, parameters.distractor_segments) == (segments, distractor_segments)
    assert parameters.distractors == distractors
    images, facts = pathfinder.generate(0, 0, 100, parameters)
    if difficulty == "easy":
        hard, hard_facts = pathfinder.generate(0, 0, 100, HARD)
        assert facts[:, ATTEMPTS].mean() < hard_facts[:, ATTEMPTS].mean() / 5
        assert facts[:, DISTRACTORS].mean() > hard_facts[:, DISTRACTORS].mean()


def test_with_label_1_the_markers_are_as_far_apart_as_a_path_may_be_long() -> None:
    parameters = published_parameters(128, "easy")
    _, facts = pathfinder.generate(0, 0, 200, parameters)
    apart = np.hypot(facts[:, Y] - facts[:, END_Y], facts[:, X] - facts[:, END_X])
    longest = parameters.segments * (parameters.length + 2 * max(parameters.margins)) + 6
    assert (apart[facts[:, LABEL] == 1] <= longest).all()
    assert (apart[facts[:, LABEL] == 0] <= longest + parameters.seed_distance).all()


# Means and standard deviations over images that the code of 2019 drew (ab9c130, with scipy 1.1's image functions), and
# how many those were. The tables of all four sizes were compared with its own drawings: they are equal.
ORIGINAL: dict[int, tuple[int, dict[str, tuple[float, float]]]] = {
    32: (
        504,
        {
            "label": (0.48016, 0.49961),
            "attempts": (302.01, 290.97),
            "distractors": (1.1448, 0.96406),
            "y": (15.032, 3.6897),
            "x": (15.298, 3.6339),
            "end y": (16.879, 8.8888),
            "end x": (16.976, 8.8029),
            "apart": (13.377, 5.1638),
            "pixels 0 to 0": (0.6592, 0.03852),
            "pixels 1 to 7": (0.1775, 0.022703),
            "pixels 8 to 31": (0.018595, 0.0052105),
            "pixels 32 to 63": (0.019318, 0.0043417),
            "pixels 64 to 95": (0.019293, 0.0062286),
            "pixels 96 to 127": (0.021201, 0.0054805),
            "pixels 128 to 159": (0.039053, 0.0049243),
            "pixels 160 to 191": (0.026759, 0.0055138),
            "pixels 192 to 223": (0.012453, 0.0034995),
            "pixels 224 to 255": (0.0066325, 0.0029462),
        },
    ),
}


@pytest.mark.parametrize(("size", "count"), [(32, 3000), pytest.param(32, 20_000, marks=pytest.mark.long)])
def test_drawings_are_distributed_as_the_original_s(size: int, count: int) -> None:
    """Every mean differs by less than 4 standard errors; twenty of them, so one failure in 800 seeds by chance."""
    images, facts = pathfinder.generate(11, 0, count, published_parameters(size))
    ours = {"label": facts[:, LABEL], "attempts": facts[:, ATTEMPTS], "distractors": facts[:, DISTRACTORS]}
    ours |= {"y": facts[:, Y], "x": facts[:, X], "end y": facts[:, END_Y], "end x": facts[:, END_X]}
    ours["apart"] = np.hypot(facts[:, Y] - facts[:, END_Y], facts[:, X] - facts[:, END_X])
    number, original = ORIGINAL[size]
    for name, (mean, deviation) in original.items():
        if name.startswith("pixels"):
            low, high = map(int, name.split()[1::2])
            values = ((images >= low) & (images <= high)).mean((1, 2))
        else:
            values = ours[name].astype(float)
        error = np.sqrt(values.var() / count + deviation**2 / number)
        assert abs(values.mean() - mean) < 4 * error, (name, values.mean(), mean, error)
