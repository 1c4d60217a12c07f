"""Workers share their queues, run side by side, and stop together."""

import threading

import pytest

from cab.runner.fork_client import ForkClient
from cab.runner.worker_pool import Stopped, run_side_by_side


def test_workers_share_a_queue_and_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=10)  # broken where one worker alone does the work
    seen: list[tuple[str, int]] = []

    def work(item: str, worker: int, client: ForkClient, stop: threading.Event) -> None:
        both.wait()
        seen.append((item, worker))

    shared = ["a", "b", "c", "d"]
    with ForkClient() as first:
        run_side_by_side([shared, shared], work, first)
    assert sorted(item for item, _ in seen) == shared


def test_each_queue_has_its_own_workers() -> None:
    seen: set[tuple[str, int]] = set()

    def work(item: str, worker: int, client: ForkClient, stop: threading.Event) -> None:
        seen.add((item, worker))

    with ForkClient() as first:
        run_side_by_side([["cpu"], ["cuda:0", "cuda:0"]], work, first)
    assert seen == {("cpu", 0), ("cuda:0", 1)}


def test_an_error_of_one_worker_stops_the_others_and_is_raised() -> None:
    stopped = threading.Event()

    def work(item: str, worker: int, client: ForkClient, stop: threading.Event) -> None:
        if item == "broken":
            raise OSError("no space left")
        assert stop.wait(10)
        stopped.set()
        raise Stopped

    with ForkClient() as first, pytest.raises(OSError, match="no space left"):
        run_side_by_side([["endless"], ["broken"]], work, first)
    assert stopped.is_set()
