"""A plan is estimated from counts on meta tensors, at the pace that past rows had."""

from pathlib import Path

from cab.planning.plan import plan
from cab.runner.cost_estimates import estimate
from cab.store.store import Store


def test_a_plan_is_estimated_and_what_will_not_fit_is_said(tmp_path: Path) -> None:
    planned = plan(["task=speed", "mechanism=softmax", "seq_len=64,1048576", "meters=[latency,memory]"])
    small, huge = estimate(planned, Store(tmp_path), tmp_path)
    assert small.fits and not huge.fits
    assert small.seconds is not None and huge.seconds is not None and huge.seconds > small.seconds > 0
    assert huge.bytes is not None and huge.bytes > 2 * 4 * (1 << 40)
