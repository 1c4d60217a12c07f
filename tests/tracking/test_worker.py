"""A worker in this process: every case of the grid is right by its own reference, and counts the same twice."""

import pytest

from cab.tracking.cases import TrackedCase, tracked_cases
from cab.tracking.worker import Worker


@pytest.mark.parametrize("case", tracked_cases([]), ids=lambda case: case.name)
def test_a_case_of_the_grid_is_right_and_counts_the_same_twice(case: TrackedCase) -> None:
    worker = Worker(case.question)
    assert worker.check() == ""
    assert worker.counts() == worker.counts()


@pytest.mark.parametrize("name", ["none", "mean", "synthesizer", "s4d"])
@pytest.mark.parametrize("pattern", ["NS", "NC"])
def test_mechanisms_that_read_less_than_all_are_checked_too(name: str, pattern: str) -> None:
    from cab import Unsupported

    (case,) = tracked_cases([f"mechanism={name}", f"pattern={pattern}", "seq_len=64", "source_len=48", "batch=1"])
    try:
        worker = Worker(case.question)
    except Unsupported:
        pytest.skip(f"{name} has no {pattern}")
    assert worker.check() == ""
