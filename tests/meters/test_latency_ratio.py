"""Latency over a baseline's: the interval, the question, and that the baseline is checked too."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cab.contracts.case import Case
from cab.errors import UsageError
from cab.meters.latency_ratio import LatencyRatio
from cab.planning.plan import plan

COMMON = ["mechanism=linear", "task=speed", "seq_len=48"]


def process(*ratios: float) -> dict[str, Any]:
    """Make what one process measured, the order flipped each time."""
    return {"samples": list(ratios), "flipped": [number % 2 == 0 for number in range(len(ratios))]}


def test_the_interval_covers_at_its_level() -> None:
    draw, repetitions, covered = random.Random(0), 4000, 0
    for _ in range(repetitions):
        levels = [2 * math.exp(draw.gauss(0, 0.06)) for _ in range(5)]
        reading = LatencyRatio().reduce(
            "latency_ratio", [process(level, level, level * 1.1, level, level) for level in levels]
        )
        covered += reading.ci_low <= 2 <= reading.ci_high
    assert covered / repetitions == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_a_process_counts_as_one_and_swapping_the_sides_inverts_the_value() -> None:
    medians = (1.98, 2.0, 2.02, 2.01, 1.99)
    there = LatencyRatio().reduce("latency_ratio", [process(v, v, 9.0, v, v) for v in medians])
    back = LatencyRatio().reduce("latency_ratio", [process(*[1 / v] * 5) for v in medians])
    assert there.value == pytest.approx(1 / back.value) and there.ci_low == pytest.approx(1 / back.ci_high)
    assert (there.processes, there.count, there.converged) == (5, 25, True)
    one = LatencyRatio().reduce("latency_ratio", [process(2.0)])
    assert (one.value, one.ci_low, one.converged) == (2.0, None, False)


def test_what_comes_first_in_a_pair_gains_nothing() -> None:
    # a sample after one of its own side takes a tenth less: its data are in the caches
    reading = LatencyRatio().reduce("latency_ratio", [process(2 / 0.9, 2 * 0.9, 2 / 0.9, 2 * 0.9, 2 / 0.9)] * 3)
    assert reading.value == pytest.approx(2)


def test_each_pair_gives_a_ratio_and_each_side_its_seconds(make_workload: Callable[..., Any]) -> None:
    workload = make_workload(settings={"baseline": "softmax", "baseline_backend": "eager"}, n=256, m=256)
    workload.check()
    result = LatencyRatio().measure(workload, workload.case)["latency_ratio"]
    assert result["samples"] and all(0 < ratio < math.inf for ratio in result["samples"])
    assert len(result["seconds"]) == 2 and len(result["flipped"]) == len(result["samples"])


def test_the_baseline_has_the_inputs_and_sizes_of_the_case(make_workload: Callable[..., Any]) -> None:
    workload = make_workload(settings={"baseline": "linear", "baseline_backend": "eager", "value_dim": 8})
    case = workload.baseline().case
    assert case.mechanism == "linear" and case.settings == {"value_dim": 8} and case.n == workload.case.n


def test_a_case_without_a_baseline_has_none(case: Case) -> None:
    assert case.baseline() is None
    asked = replace(case, settings={"baseline": "softmax", "baseline_backend": "sdpa", "threads": 1})
    assert asked.baseline() == replace(case, backend="sdpa", settings={"threads": 1})


def test_the_baseline_is_part_of_this_meters_question_alone() -> None:
    def measurements(*overrides: str) -> dict[str, Any]:
        items = plan([*COMMON, "meters=[latency,latency_ratio]", *overrides]).measurements
        return {item.meter: item for item in items}

    usual, other = measurements(), measurements("baseline=mean")
    assert usual["latency_ratio"].case.settings == {"baseline": "softmax", "baseline_backend": "eager"}
    assert usual["latency"].file == other["latency"].file
    assert usual["latency_ratio"].file != other["latency_ratio"].file
    assert usual["latency_ratio"].source != usual["latency"].source
    assert any(path.endswith("softmax.py") for path in usual["latency_ratio"].files)
    assert not any(path.endswith("softmax.py") for path in usual["latency"].files)


def test_a_baseline_that_is_none_is_refused() -> None:
    for override, why in (
        ("baseline=softmx", "unknown mechanism 'softmx'; did you mean 'softmax'"),
        ("baseline_backend=spda", "unknown backend of baseline softmax 'spda'; did you mean 'sdpa'"),
        ("baseline=hybrid", "baseline=hybrid: a wrapper"),
    ):
        with pytest.raises(UsageError, match=why):
            plan([*COMMON, "meters=[latency_ratio]", override])
