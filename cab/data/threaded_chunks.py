"""Generates numbered examples in threads, chunk by chunk."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def threaded_chunks(generate: Callable[[int, int], T], first: int, count: int, chunk: int) -> Iterator[T]:
    """Call `generate(start, size)` on consecutive chunks of `count` numbers from `first` on, and yield the results.

    There is a thread for each core, the results come in order, and only a few chunks are computed in advance.
    """
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        pending: list[Future[T]] = []
        for start in range(first, first + count, chunk):
            pending.append(pool.submit(generate, start, min(chunk, first + count - start)))
            if len(pending) > 2 * workers:
                yield pending.pop(0).result()
        for future in pending:
            yield future.result()
