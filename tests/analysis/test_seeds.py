"""The mean over seeds, and its interval."""

import pytest

from cab.analysis.seeds import mean_over_seeds
from cab.report.notes import legend
from tests.analysis.example_rows import board_of, case_rows, training_rows


def test_seeds_are_averaged_and_their_spread_widens_the_interval() -> None:
    accuracies = (0.60, 0.62, 0.64)
    seeds = [training_rows("softmax", (x, x - 0.02, x + 0.02), seed=seed) for seed, x in enumerate(accuracies)]
    cell = board_of(*seeds).lines[0].cells["accuracy"]
    # t(2, 0.975) * 0.02 / sqrt(3) between the seeds, and 0.02 within each: the root of the sum of squares
    assert (cell.seeds, cell.value) == (3, pytest.approx(0.62))
    half_width = pytest.approx((0.049683**2 + 0.02**2) ** 0.5, rel=1e-3)
    assert cell.high - cell.value == half_width and cell.value - cell.low == half_width
    assert "one seed" in " ".join(legend([board_of(training_rows("softmax", (0.6, 0.5, 0.7)))]))


def test_counts_that_no_seed_changes_stay_exact() -> None:
    cell = board_of(*(case_rows({"flops": 8e9}, seed=i) for i in range(2))).lines[0].cells["flops"]
    assert (cell.value, cell.low, cell.high) == (8e9, None, None)


def test_a_spread_that_is_rounding_has_no_interval() -> None:
    values: list[tuple[float, float | None, float | None]] = [(x, None, None) for x in (0.1 + 0.2, 0.3, 0.3)]
    assert mean_over_seeds(values)[1:] == (None, None)
