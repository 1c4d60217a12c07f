"""Position encodings: the published sinusoidal table, and names that do not exist."""

import math

import pytest

from cab.backbones.positions import SinusoidalPositions, position_encoding


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoidal_positions_are_the_papers(width: int) -> None:
    table = SinusoidalPositions(5, width).table
    for position in range(5):
        for i in range(width):
            angle = position / 10_000 ** (2 * (i // 2) / width)
            assert table[position, i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


def test_wrong_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown positions 'learnt'; did you mean 'learned'"):
        position_encoding("learnt", 4, 4)
