"""A plan is estimated from counts on meta tensors, at the pace that past rows had."""

from pathlib import Path

import pytest

from cab.contracts.messages import Samples
from cab.planning.plan import plan
from cab.runner.cost_estimates import _seconds, estimate
from cab.runner.entries import new_entry, with_outcome
from cab.runner.outcomes import Outcome
from cab.runner.supervisor import Options
from cab.store.store import Store
from tests.runner.example_runs import ratio_samples


def test_a_plan_is_estimated_and_what_will_not_fit_is_said(tmp_path: Path) -> None:
    planned = plan(["task=speed", "mechanism=softmax", "seq_len=64,1048576", "meters=[latency,memory]"])
    small, huge = estimate(planned, Store(tmp_path), Options(tmp_path))
    assert small.fits and not huge.fits
    assert small.seconds is not None and huge.seconds is not None and huge.seconds > small.seconds > 0
    assert huge.bytes is not None and huge.bytes > 2 * 4 * (1 << 40)


def test_a_wide_ratio_is_estimated_with_the_processes_that_it_still_takes() -> None:
    (measurement,) = plan(["task=speed", "mechanism=linear", "seq_len=64", "meters=[latency_ratio]"]).measurements
    entry, seconds = new_entry(measurement, "r", "c"), []
    for number in range(11):
        seconds.append(_seconds(measurement, entry, 0.01))
        outcome = Outcome("ok", answer=Samples({"latency_ratio": ratio_samples(number, 0.08)}))
        entry = with_outcome(entry, measurement, outcome, {})
    assert seconds == pytest.approx([seconds[0] * left / 5 for left in (5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 0)])
