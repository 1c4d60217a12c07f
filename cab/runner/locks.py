"""Locks on the devices of this host, which the kernel frees at a process's death."""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cab import environment
from cab.errors import UsageError
from cab.paths import runtime


@contextmanager
def device(name: str, exclusive: bool, waiting: Callable[[str], None] = lambda holders: None) -> Iterator[None]:
    """Hold a device of this host: alone (`exclusive`) for timing, with others for training.

    Where it is not free, calls `waiting` and tries again until it is. `waiting` is told who holds the device, as
    ` (held by process 12)`, and nothing where the kernel does not say. `UsageError` where the lock cannot be made.
    """
    descriptor = _open(f"cuda{environment.physical(name)}" if name.startswith("cuda") else name)
    lock = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        while True:
            try:
                fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting(_held_by(descriptor))
                time.sleep(0.05)
        os.utime(descriptor)  # what cleans /tmp takes old files, also one whose lock is held
        yield
    finally:
        os.close(descriptor)


def _open(name: str) -> int:
    """Return a descriptor of a device's lock file, in a folder that is this user's."""
    folder = runtime()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():  # anybody can make a folder or a link of that name in /tmp
            raise OSError(errno.EPERM, "it is another user's")
        return os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UsageError(
            f"the lock of {name} cannot be kept in {folder}: {error.strerror}; name another folder with CAB_LOCK_FOLDER"
        ) from error


def _held_by(descriptor: int) -> str:
    """Say which processes hold the file's lock; /proc/locks names files by their inode alone."""
    inode, pids = str(os.fstat(descriptor).st_ino), []
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 3: FLOCK ADVISORY READ 12051 fe:00:4858443 0 EOF; who waits has an arrow behind 3:
            if words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode:
                pids.append(words[4])
    return f" (held by process{'' if len(pids) == 1 else 'es'} {', '.join(pids)})" if pids else ""
