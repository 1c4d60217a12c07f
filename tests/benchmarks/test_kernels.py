"""The cases of conf/grid/track.yaml under pytest-benchmark: a local harness, not the judge (docs/tracking.md)."""

from typing import Any

import pytest

from cab.instruments import allocator
from cab.tracking.cases import TrackedCase, tracked_cases
from cab.tracking.worker import Worker

allocator.pin()  # before the first tensor


@pytest.mark.parametrize("case", tracked_cases([]), ids=lambda case: case.name)
def test_kernel(case: TrackedCase, benchmark: Any) -> None:
    """Time a pass that has been found right; on a GPU until it has ended."""
    worker = Worker(case.question)
    assert worker.check() == ""

    def run() -> None:
        worker.run()
        worker.device.synchronise()

    benchmark(run)
