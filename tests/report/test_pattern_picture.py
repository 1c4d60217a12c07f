"""The picture of mechanisms by task and pattern."""

from typing import Any

import pytest

from cab.analysis.results import Results
from cab.errors import UsageError
from cab.report.pattern_picture import patterns
from tests.analysis.example_rows import case_rows, environments, table_of, training_rows

SECONDS = {"softmax": 4.0, "fast": 1.0, "slow": 8.0, "mean": 0.1}


def costs(pattern: str, n: int = 512, **more: Any) -> list[Any]:
    seconds: dict[str, Any] = {**SECONDS, **more}
    return [case_rows({"latency": x}, mechanism=name, pattern=pattern, n=n, m=n) for name, x in seconds.items()]


def scores(pattern: str, **of: float) -> list[Any]:
    return [training_rows(name, value, pattern=pattern) for name, value in of.items()]


def drawn(*cases: Any, metric: str = "") -> Any:
    """Return the picture's traces by name, and its cells: (row, column) -> text."""
    figure = patterns(Results(table_of(*cases), environments()), metric)
    heatmap, *others = figure.data
    cells = {
        (row, column): text
        for row, texts in zip(heatmap.y, heatmap.text, strict=True)
        for column, text in zip(heatmap.x, texts, strict=True)
    }
    return figure, heatmap, cells, {trace.name: trace for trace in others}


def test_costs_are_how_many_times_as_good_as_softmax_at_the_longest_length() -> None:
    _, heatmap, cells, _ = drawn(*costs("CC"), *costs("NS", 256), *costs("NS", 512))
    assert list(heatmap.x) == ["speed<br>NS, n = 512<br>latency, forward", "speed<br>CC, n = 512<br>latency, forward"]
    assert list(heatmap.y) == ["mean (control)", "slow", "softmax", "fast"]  # from the bottom: controls, then the worst
    assert [cells["fast", column] for column in heatmap.x] == ["4.00", "4.00"] and cells[
        "slow", heatmap.x[0]
    ] == "0.500"
    assert [row[0] for row in heatmap.z] == pytest.approx([5, -1, 0, 2])  # doublings, 5 at most


def test_scores_are_gains_over_the_best_floor_and_as_dark_as_their_share_of_softmaxs() -> None:
    _, heatmap, cells, _ = drawn(*scores("NS", softmax=0.9, good=0.98, half=0.5, none=0.1))
    (column,) = heatmap.x
    assert column.endswith("gain over none")
    assert [cells[name, column] for name in ("softmax", "good", "half")] == ["+80.0", "+88.0", "+40.0"]
    shades = dict(zip(heatmap.y, (row[0] for row in heatmap.z), strict=True))
    assert shades["softmax"] == 0 and shades["good"] == pytest.approx(0.5) and shades["half"] == pytest.approx(-2.5)


def test_what_was_not_measured_is_not_filled_in() -> None:
    refused, failed = ("unsupported", "no causal form"), ("oom", "too large")
    cases = [*costs("NS", other=2.0, broken=failed), *costs("CS", other=refused), *scores("NS", softmax=0.9, none=0.1)]
    figure, heatmap, cells, others = drawn(*cases)
    speed_ns, speed_cs, trained = heatmap.x
    assert cells["other", speed_cs] == cells["other", trained] == cells["broken", speed_cs] == ""
    assert list(zip(others["unsupported"].x, others["unsupported"].y, strict=True)) == [(speed_cs, "other")]
    assert list(zip(others["failed"].x, others["failed"].y, others["failed"].text, strict=True)) == [
        (speed_ns, "broken", "oom")
    ]
    assert len(figure.layout.shapes) == 1
    measured = dict(zip(others["measured"].y, others["measured"].text, strict=True))
    assert measured["softmax"] == "3/3" and measured["other"] == "1/3" and measured["broken"] == "0/3"


def test_skipped_and_leaky_cells_say_so_and_are_not_framed() -> None:
    leaky = [
        {**row, "grade": "leaky"} for row in case_rows({"latency": 0.5}, mechanism="other", pattern="CS", n=512, m=512)
    ]
    figure, heatmap, cells, others = drawn(*costs("NS", other=2.0, long=("skipped", "oom at 256")), *costs("CS"), leaky)
    ns, cs = heatmap.x
    marks = dict(zip(zip(others["other"].x, others["other"].y, strict=True), others["other"].text, strict=True))
    assert marks == {(ns, "long"): "skipped", (cs, "other"): "leaky"}
    assert cells["other", cs] == "" and not figure.layout.shapes


def test_a_value_that_nothing_compares_has_its_unit_and_no_colour() -> None:
    alone = [case_rows({"latency": x}, mechanism=name, n=512, m=512) for name, x in (("fast", 0.002), ("slow", 0.004))]
    failed = case_rows({"latency": ("oom", "too large")}, n=512, m=512)
    for cases in (alone, [*alone, failed]):
        _, heatmap, cells, others = drawn(*cases)
        assert cells["fast", heatmap.x[0]] == "2.00 ms" and "2.00 ms" in others["uncompared"].text
        assert all(shade is None for row in heatmap.z for shade in row)


def test_softmax_at_its_floor_gives_no_colour_and_the_head_says_so() -> None:
    _, heatmap, cells, _ = drawn(*scores("NS", softmax=0.05, good=0.9, none=0.1))
    (column,) = heatmap.x
    assert column.endswith("softmax is not above it") and cells["good", column] == "+80.0"
    assert all(shade is None for row in heatmap.z for shade in row)


def test_a_metric_is_drawn_where_it_was_measured() -> None:
    rows = [*costs("NS"), *costs("CS"), case_rows({"latency": 1.0, "flops": 100.0}, pattern="CS", n=512, m=512)]
    _, heatmap, _, _ = drawn(*rows, metric="flops")
    assert list(heatmap.x) == ["speed<br>CS, n = 512<br>flops, forward"]
    with pytest.raises(UsageError, match="unknown metric 'flop'; did you mean 'flops'"):
        drawn(*rows, metric="flop")
    with pytest.raises(UsageError, match="bytes_needed has no direction"):
        drawn(case_rows({"latency": 1.0, "bytes_needed": 5.0}), metric="bytes_needed")


def test_a_name_is_no_markup() -> None:
    _, heatmap, _, _ = drawn(*costs("NS", **{"<b>x</b>": 1.0}))
    assert "&lt;b&gt;x&lt;/b&gt;" in heatmap.y
