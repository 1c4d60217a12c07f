"""The fitted exponent of a cost, and the one on the card."""

import pytest

from cab.analysis.growth import declared_exponent, growths
from tests.analysis.example_rows import cost_rows


@pytest.mark.parametrize(
    ("cost", "exponent"),
    [
        ("O(n m d)", 2), ("O((n + m) d^2)", 1), ("O(n window d)", 1), ("O((n + m) r d + r^3)", 1), ("O(1)", 0),
        ("O(n b (5 + r) d)", 1), ("O(n log n d)", 1), ("O(n sqrt n d)", 1.5), ("O(n^2 d)", 2), ("quadratic", None),
        ("O(n (w + n / c) d)", None),
    ],
)  # fmt: skip
def test_the_declared_power_of_the_length_is_read_from_the_cost(cost: str, exponent: float | None) -> None:
    assert declared_exponent(cost) == exponent


def test_a_cost_that_outgrows_its_card_is_marked() -> None:
    rows = cost_rows({("linear", "eager"): [1.0, 2.0, 4.0, 8.0], ("softmax", "eager"): [1.0, 8.0, 64.0, 512.0]})
    table = growths(rows).set_index("mechanism")
    assert table.loc["linear", "exponent"] == pytest.approx(1) and bool(table.loc["linear", "agrees"])
    assert table.loc["softmax", "exponent"] == pytest.approx(3) and not bool(table.loc["softmax", "agrees"])
    assert table.loc["softmax", "declared"] == 2


def test_memory_is_held_to_no_card_and_two_lengths_to_no_fit() -> None:
    rows = cost_rows({("linear", "eager"): [1.0, 8.0, 64.0]}, metric="peak_allocated")
    assert growths(rows)["agrees"].isna().all()
    assert growths(cost_rows({("linear", "eager"): [1.0, 2.0]})).empty
