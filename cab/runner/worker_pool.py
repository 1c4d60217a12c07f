"""Several fork servers that work through items side by side. Only what is no timing may run this way."""

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from cab.runner.fork_client import ForkClient

Item = TypeVar("Item")


class Stopped(Exception):
    """The run is being stopped: what a worker has in hand is given up and not recorded."""


def run_side_by_side(
    queues: Sequence[Sequence[Item]],
    work: Callable[[Item, int, ForkClient, threading.Event], None],
    first: ForkClient,
    finished: Callable[[int], None] = lambda count: None,
) -> None:
    """Let one worker for each queue, with a fork server of its own, call `work(item, worker, client, stop)`.

    The same queue may be given several times: its workers share its items. `first` is the server of worker 0; the
    others' are started and ended here. `finished` takes how many items are over. What a worker raises, and Ctrl-C,
    stops the others (`stop` is then set, at which `work` should raise `Stopped`) and is raised here.
    """
    distinct = {id(items): items for items in queues}
    waiting: dict[int, queue.SimpleQueue[Item]] = {key: queue.SimpleQueue() for key in distinct}
    for key, items in distinct.items():
        for item in items:
            waiting[key].put(item)
    stop = threading.Event()
    ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()  # one for each item

    def serve(worker: int, items: "queue.SimpleQueue[Item]", client: ForkClient) -> None:
        while not stop.is_set():
            try:
                item = items.get_nowait()
            except queue.Empty:
                return
            try:
                work(item, worker, client, stop)
                ended.put(None)
            except BaseException as error:
                ended.put(error)

    with ExitStack() as stack:
        clients = [first, *(stack.enter_context(ForkClient()) for _ in queues[1:])]
        threads = [
            threading.Thread(target=serve, args=(worker, waiting[id(items)], client), daemon=True)
            for worker, (items, client) in enumerate(zip(queues, clients, strict=True))
        ]
        try:
            for thread in threads:
                thread.start()
            for count in range(sum(map(len, distinct.values()))):
                finished(count)
                if (error := ended.get()) is not None:
                    raise error
        finally:
            stop.set()
            for thread in threads:
                thread.join()
