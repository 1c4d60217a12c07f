"""Locks on the devices of this host, which the kernel frees at a process's death."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cab import environment
from cab.paths import runtime


@contextmanager
def device(name: str, exclusive: bool, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a device of this host: alone (`exclusive`) for timing, with others for training.

    Where it is not free, calls `waiting` and tries again until it is.
    """
    name = f"cuda{environment.physical(name)}" if name.startswith("cuda") else name
    descriptor = os.open(runtime() / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    lock = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        while True:
            try:
                fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting()
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
