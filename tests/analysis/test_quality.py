"""How well costs were measured."""

import pytest

from cab.analysis.quality import measured_costs, quality, stop_reasons, worst_rows
from tests.analysis.example_rows import case_rows, table_of, training_rows, with_columns

ROWS = table_of(
    case_rows({"latency": (10.0, 9.0, 10.5)}, n=256),
    with_columns(
        case_rows({"latency": (10.0, 9.5, 14.0)}, n=256, mechanism="fast", converged=False),
        stop_reason="±40.0% exceeds ±5%; processes stopped by: time 5",
    ),
    with_columns(
        case_rows({"latency": (10.0, 9.5, 17.0)}, n=256, mechanism="slow", converged=False),
        stop_reason="±70.0% exceeds ±5%; processes stopped by: time 5",
    ),
    case_rows({"latency": 1.0, "flops": 5.0}, n=512, converged=False, stop_reason="one process gives no interval"),
    training_rows("softmax", (0.5, 0.1, 0.9)),
)


def test_half_widths_are_shares_of_the_values_by_metric_and_length() -> None:
    short, long = quality(measured_costs(ROWS))
    assert (short.metric, short.n, short.values, short.without_interval, short.converged) == ("latency", 256, 3, 0, 1)
    assert (short.median, short.worst) == pytest.approx((0.4, 0.7))
    assert (long.n, long.values, long.without_interval, long.converged, long.median) == (512, 1, 1, 0, None)


def test_reasons_are_counted_whatever_the_half_width() -> None:
    reasons = dict(stop_reasons(measured_costs(ROWS)))
    assert reasons["the half-width exceeds ±5%; processes stopped by: time 5"] == 2
    assert reasons["one process gives no interval"] == 1


def test_the_widest_interval_comes_first() -> None:
    assert [row["mechanism"] for row in worst_rows(measured_costs(ROWS))] == ["slow", "fast", "softmax"]


def test_what_has_no_finite_half_width_is_not_among_the_widest() -> None:
    infinite = float("inf")
    rows = table_of(
        case_rows({"latency": (infinite, 1.0, infinite)}),
        case_rows({"latency": (1.0, 0.9, infinite)}, mechanism="fast"),
        case_rows({"latency": (0.0, 0.0, 1.0)}, mechanism="zero"),
    )
    assert list(worst_rows(measured_costs(rows))) == []


def test_nothing_measured_has_no_quality() -> None:
    costs = measured_costs(table_of())
    assert quality(costs) == [] and stop_reasons(costs) == [] and list(worst_rows(costs)) == []
