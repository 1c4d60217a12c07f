"""A curve holds the measured costs of one mechanism that differ in nothing but the length."""

import pandas as pd
import pytest

from cab.analysis.curves import curves
from tests.analysis.example_rows import cost_rows


def test_a_curve_has_its_lengths_in_order_whatever_the_order_of_the_rows() -> None:
    rows = cost_rows({("linear", "eager"): [1.0, 2.0, 3.0]})
    (curve,) = curves(rows.iloc[::-1])
    assert [(cost.n, cost.value, cost.low, cost.high) for cost in curve.costs] == [
        (256, 1.0, 1.0, 1.0),
        (512, 2.0, 2.0, 2.0),
        (1024, 3.0, 3.0, 3.0),
    ]


@pytest.mark.parametrize("change", [{"status": "oom"}, {"m": 1}, {"step": 100}, {"metric": "accuracy"}], ids=str)
def test_what_is_no_measured_cost_of_a_self_pattern_is_on_no_curve(change: dict[str, object]) -> None:
    assert not list(curves(cost_rows({("linear", "eager"): [1.0, 2.0]}).assign(**change)))


def test_rows_that_differ_in_a_setting_are_on_two_curves() -> None:
    rows = cost_rows({("linear", "eager"): [1.0, 2.0]})
    assert len(list(curves(pd.concat([rows, rows.assign(batch=2)])))) == 2
