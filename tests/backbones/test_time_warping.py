"""Distances of speech on cases that are computed by hand."""

from functools import cache

import numpy as np
import pytest
from scipy.fft import dct

from cab.backbones.time_warping import cepstrum, distortions, path_distance


def column(*values: float) -> np.ndarray:
    return np.array(values)[:, None]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((1,), (4,), 3),
        ((0, 1, 2), (0, 1, 2), 0),
        ((0, 1, 2), (0, 0, 1, 1, 1, 2), 0),  # slower
        ((0, 2), (0, 1, 2), 1),  # the 1 is beside 0 or 2
        ((0, 0, 5), (5, 0, 5), 5),  # first with first: 5, and then none
        ((3, 3), (0,), 6),  # every frame is on the path
    ],
)
def test_the_best_alignment_is_found_by_hand(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    assert path_distance(column(*a), column(*b)) == path_distance(column(*b), column(*a)) == expected


def test_frames_are_as_far_apart_as_the_root_of_the_mean_square() -> None:
    assert path_distance(np.array([[3.0, 0.0, 0.0, 1.0]]), np.array([[0.0, 0.0, 4.0, 1.0]])) == 2.5


def test_it_is_the_least_of_all_paths() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        a, b = (draw.normal(size=(draw.integers(1, 7), 2)) for _ in range(2))
        cost = np.sqrt(((a[:, None] - b) ** 2).mean(-1))

        @cache
        def least(i: int, j: int, cost: tuple[tuple[float, ...], ...] = tuple(map(tuple, cost))) -> float:
            earlier = [least(i - di, j - dj) for di, dj in ((1, 0), (0, 1), (1, 1)) if i >= di and j >= dj]
            return cost[i][j] + min(earlier, default=0.0)

        assert path_distance(a, b) == pytest.approx(least(len(a) - 1, len(b) - 1))


def test_cepstra_are_the_first_coefficients_of_the_orthonormal_cosine_transform() -> None:
    mel = np.random.default_rng(0).normal(size=(5, 80))
    np.testing.assert_allclose(cepstrum(mel), dct(mel, norm="ortho")[:, :13], rtol=1e-9, atol=1e-12)


def test_both_distortions_of_a_frame_that_is_louder_by_one() -> None:
    mel = np.zeros((3, 80))
    found = distortions(mel + 1, mel[:2])
    # the spectrum differs by 1 in each band; the cepstrum by sqrt(80) in the first coefficient of 13 alone
    cepstral = pytest.approx(3 * (80 / 13) ** 0.5)
    assert found == {"mcd": (cepstral, 3), "msd": (pytest.approx(3.0), 3), "mcd_recorded": (cepstral, 2)}
