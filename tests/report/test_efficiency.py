"""Efficiency lengths and exponents in the terminal."""

import io

import pandas as pd
from rich.console import Console

from cab.analysis.efficiency_length import efficiency_lengths
from cab.analysis.growth import growths
from cab.report import print_efficiency
from tests.analysis.example_rows import cost_rows


def test_the_report_keeps_curves_of_other_questions_apart() -> None:
    softmax = [1.0, 4.0, 16.0]
    small = cost_rows({("linear", "eager"): [8.0, 8.0, 8.0], ("softmax", "eager"): softmax}).assign(batch=2)
    large = cost_rows({("linear", "eager"): [0.5, 0.5, 0.5], ("softmax", "eager"): softmax}).assign(batch=16)
    rows = pd.concat([small, large])
    out = io.StringIO()
    print_efficiency(efficiency_lengths(rows), growths(rows), Console(file=out, width=200))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines() if line.startswith("linear")]
    (of_small,) = (line for line in lines if "batch 2" in line)
    (of_large,) = (line for line in lines if "batch 16" in line)
    assert len(lines) == 2 and "from" in of_small and "already" in of_large
