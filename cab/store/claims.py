"""Claims on pieces of work in a store: locks that the kernel frees at a process's death, or leases on shared disks.

All claims in a folder are of one kind, because a lock and a lease do not exclude each other. The file `kind` names it.
"""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cab.errors import UsageError
from cab.store import leases

KIND = "kind"


def agree(folder: Path) -> None:
    """Say in a folder which kind its claims are of, the first time; `UsageError` where another host has said another.

    `UsageError` also where claims would be leases and the file system has no links, which these need. The folder is
    there. Every writer calls this before its first claim.
    """
    kind, file = "lease" if leases.needed(folder) else "flock", folder / KIND
    if not file.exists():
        _write_unless_there(file, kind)
    present = file.read_text(errors="replace").strip()
    if present == kind:
        return
    if present == "lease":
        what = f"Set CAB_LOCKS=lease on this host, or delete {file} when no run uses this store any more"
    else:
        what = f"Set CAB_LOCKS=lease on every host, and delete {file} when no run uses this store any more"
    raise UsageError(
        f"the runs on {folder.parent} claim their work by {present or 'nothing'}, as {file} says, and this host would "
        f"claim by {kind}; the two do not exclude each other. {what}"
    )


def _write_unless_there(file: Path, content: str) -> None:
    """Write a file whole; one that is there already stays."""
    whole = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        whole.write_text(content)
        os.link(whole, file)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in leases.NO_LINKS:
            raise
        if content == "lease":
            raise leases.no_links(file.parent) from error
        whole.replace(file)  # without links there are no leases, so that nobody can have written another kind
    finally:
        whole.unlink(missing_ok=True)


@contextmanager
def claim(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[Callable[[], bool] | None]:
    """Claim a piece of work by its lock file; yields None where another run has claimed it.

    Else yields what says whether the claim still holds: a lease may be lost while its owner stands still. `waiting` is
    called while it is found out whether a lease's owner lives. The file goes when the claim ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if leases.needed(path.parent):
        with leases.lease(path, leases.RENEWAL, leases.EXPIRY, waiting=waiting) as held:
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
