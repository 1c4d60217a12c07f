"""Latency: what becomes of the samples of several processes."""

import math
import random
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from cab.contracts.case import Case
from cab.instruments import timers
from cab.meters.latency import Latency


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_the_interval_of_latency_covers_at_its_level(spread: float) -> None:
    """Processes differ (log-normally, about 1), samples inside one hardly do: pooling them would cover far less."""
    draw, repetitions, covered = random.Random(0), 4000, 0
    for _ in range(repetitions):
        levels = [math.exp(draw.gauss(0, spread)) for _ in range(5)]
        reading = Latency().reduce("latency", [{"samples": [level, level, level * 1.01]} for level in levels])
        covered += reading.ci_low <= 1 <= reading.ci_high
    assert covered / repetitions == pytest.approx(0.95, abs=0.012)  # 3.5 standard errors


def test_latency_is_the_median_of_the_processes_medians() -> None:
    processes = [{"samples": [v, v * 0.99, v * 5], "stop": "precision"} for v in (1.0, 1.02, 0.98, 1.01, 1.5)]
    reading = Latency().reduce("latency", processes)
    assert reading.value == median(v for v in (1.0, 1.02, 0.98, 1.01, 1.5))
    assert reading.ci_low < reading.value < reading.ci_high
    assert (reading.count, reading.processes, reading.converged) == (15, 5, False)
    assert "exceeds ±5%" in reading.stop_reason and "precision 5" in reading.stop_reason
    assert Latency().reduce("latency", [{"samples": p["samples"]} for p in processes]).value == reading.value


def test_latency_has_converged_when_its_interval_is_within_five_per_cent() -> None:
    reading = Latency().reduce("latency", [{"samples": [v]} for v in (1.0, 1.01, 0.99, 1.0, 1.02)])
    assert reading.converged and "within ±5%" in reading.stop_reason
    assert math.sqrt(reading.ci_high / reading.ci_low) - 1 < 0.05
    one = Latency().reduce("latency", [{"samples": [1.0, 2.0, 3.0]}])
    assert (one.value, one.ci_low, one.converged) == (2.0, None, False) and "one process" in one.stop_reason


def test_the_value_lies_in_its_interval_however_skewed_the_processes() -> None:
    reading = Latency().reduce("latency", [{"samples": [v]} for v in [1.0] * 40 + [10.0] * 24])
    assert reading.ci_low <= reading.value <= reading.ci_high


def test_latency_of_a_workload_is_per_call_and_of_decoding_per_token(
    case: Case, stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(timers.TIMERS, "own", lambda run, device: timers.Timing([6.4], throttled=[12.8]))
    result = Latency().measure(stub_workload(calls=64), case)["latency"]
    assert (result["samples"], result["throttled"]) == ([0.1], [0.2])
    assert "2 samples at a throttled clock" in Latency().reduce("latency", [result] * 2).stop_reason


@pytest.mark.parametrize("has_run", [True, False])
def test_the_first_run_of_a_pass_is_no_sample(
    has_run: bool, case: Case, stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    monkeypatch.setitem(timers.TIMERS, "own", lambda run, device: timers.Timing([float(len(runs))]))
    result = Latency().measure(stub_workload(lambda: runs.append(1), has_run=has_run), case)
    assert result["latency"]["samples"] == [0.0 if has_run else 1.0]


def test_latency_of_a_real_workload_is_a_positive_number(
    make_workload: Callable[..., Any], values_of: Callable[..., dict[str, float]]
) -> None:
    assert values_of(Latency(), make_workload())["latency"] > 0
