"""Units, three digits, and intervals as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cab.report.units import display_unit, format_number


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        ("seconds", 0.01234, "12.3 ms"),
        ("seconds", 3.2e-5, "32.0 µs"),
        ("bytes", 1.5 * 2**20, "1.50 MiB"),
        ("FLOP", 8.1e9, "8.10 GFLOP"),
        ("fraction", 0.6312, "63.1 %"),
        ("parameters", 12544, "12.5 thousand"),
        ("nats", 1.25, "1.25 nats"),
        ("bytes", 0.0, "0 B"),
    ],
)
def test_units_are_what_people_read(unit: str, value: float, text: str) -> None:
    display = display_unit(unit, [value])
    assert f"{display.text(value)} {display.name}" == text


@given(st.floats(1e-6, 9e14))
def test_a_number_has_three_digits_and_no_exponent(value: float) -> None:
    text = format_number(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.00501)


def test_an_interval_is_never_written_as_nothing() -> None:
    display = display_unit("seconds", [0.0123])
    assert display.half_width(0.0123, 0.0122, 0.0124) == "±0.1"
    assert display.half_width(0.0123, 0.012296, 0.012302) == "±0.004"
    assert display.half_width(0.0123, 0.0123, 0.0123) == "±0.0"
    assert display.half_width(0.0123, 0.001, 0.5) == "±488"
