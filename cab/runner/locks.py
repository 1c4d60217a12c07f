"""Claims on work, and the device: locks that the kernel frees at a process's death, or leases on shared disks."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cab import environment
from cab.paths import runtime
from cab.runner import leases


@contextmanager
def claim(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool] | None]:
    """Claim a piece of work by its lock file; yields None where another run has claimed it.

    Else yields what says whether the claim still holds: a lease may be lost while its owner stands still. `waiting` is
    called while it is found out whether a lease's owner lives. The file goes when the claim ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if leases.needed(path.parent):
        with leases.lease(path, waiting=waiting) as held:
            yield held
        return
    descriptor = _lock(path)
    try:
        yield None if descriptor is None else lambda: True
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)  # while it is locked: who opens the name now gets another file
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Return a descriptor that locks the file, or None where another process has it locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        try:
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # of a file that its last holder has just removed


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
