"""Pictures that compare: what is drawn is what the analysis says."""

import pytest

from cab.analysis.agreement import agreements
from cab.analysis.mean_ranks import mean_ranks, paired_differences
from cab.analysis.results import Results
from cab.errors import UsageError
from cab.report.aggregates import aggregates_by_pattern
from cab.report.comparison_pictures import agreement, compare, ranks
from tests.analysis.example_rows import case_rows, training_rows
from tests.report.example_results import grid, results_of


def trained(tasks: int, mechanisms: int = 6) -> Results:
    """Return the scores of some mechanisms on some tasks; the last two change places on every second task."""
    cases = []
    for task in range(tasks):
        scores = {"none": 0.1, "softmax": 0.9, **{f"m{i}": 0.2 + i / 10 for i in range(mechanisms)}}
        if task % 2:
            scores["m0"], scores["m1"] = scores["m1"], scores["m0"]
        cases += [training_rows(name, (x, x - 0.01, x + 0.01), task=f"task{task}") for name, x in scores.items()]
    return results_of(*cases)


def test_a_against_b_is_a_dot_for_each_case_with_its_ratio() -> None:
    better, worse, same = compare(grid(), "fast", "lean").data
    assert len(better.x) == 16 and list(better.x) == pytest.approx([0.5] * 16)
    assert better.error_x.array[0] > 0 and not worse.x and not same.x
    assert [trace.name for trace in (better, worse, same)] == ["16 better", "0 worse", "0 not told apart"]
    (_, worse, _) = compare(grid(), "fast", "lean", "peak_allocated").data
    assert list(worse.x) == pytest.approx([10.0] * 16)


def test_scores_are_compared_by_their_difference() -> None:
    better, *_ = compare(trained(3), "m5", "m3").data
    assert list(better.x) == pytest.approx([20.0] * 3)  # of percent


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="unknown mechanism 'fats'; did you mean 'fast'"):
        compare(grid(), "fats", "lean")
    with pytest.raises(UsageError, match="unknown metric"):
        compare(grid(), "fast", "lean", "latencies")
    apart = results_of(
        case_rows({"latency": 1.0}, mechanism="a", n=256, m=256), case_rows({"latency": 1.0}, mechanism="b")
    )
    with pytest.raises(UsageError, match="no board has a value"):
        compare(apart, "a", "b")


def test_an_interval_is_as_dark_as_its_hollow_dot() -> None:
    wide = [case_rows({"latency": (1.0, 0.5, 2.0)}, mechanism=name) for name in ("a", "b")]
    *_, same = compare(results_of(*wide), "a", "b").data
    assert same.error_x.color == same.marker.line.color != same.marker.color


def test_agreement_draws_every_pair_and_leaves_few_mechanisms_blank() -> None:
    results = trained(3)
    patterns, tasks = agreement(results).data
    assert not patterns.x and list(tasks.x) == pytest.approx([each.value for each in agreements(results.boards)])
    few = agreement(trained(2, mechanisms=3))
    assert not any(trace.x for trace in few.data) and "4 mechanisms on both" in few.layout.annotations[0].text
    with pytest.raises(UsageError, match="two patterns"):
        agreement(results_of(case_rows({"latency": 1.0})))


def test_ranks_are_differences_below_ten_tasks_and_mean_ranks_from_ten_on() -> None:
    nine, ten = trained(9), trained(10)
    (differences,) = (paired_differences(of) for of in aggregates_by_pattern(nine.boards).values())
    (drawn,) = ranks(nine).data
    assert list(drawn.x) == pytest.approx([pair.value for pair in differences])
    (means,) = (mean_ranks(of) for of in aggregates_by_pattern(ten.boards).values())
    assert means is not None
    traces = ranks(ten).data
    (dots,) = (trace for trace in traces if trace.mode == "markers")
    assert list(dots.x) == list(means.ranks.values()) and list(dots.text) == list(means.ranks)
    bars = [trace for trace in traces if trace.mode == "lines" and trace.line.width == 5]
    assert len(bars) == len(means.groups) > 0
    with pytest.raises(UsageError, match="two tasks of one pattern"):
        ranks(grid())
