"""Claims on disks that several hosts share, where `flock` may hold for one host only.

A lease is a file with a random identity of its owner and a count, linked to its name: `os.link` fails where the name
exists, on every file system. The owner raises the count every `RENEWAL` seconds. An observer that sees no change for
`EXPIRY` seconds of its own monotonic clock takes the owner for dead. Clocks and names of hosts are never compared.
"""

import errno
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cab.errors import UsageError

RENEWAL, EXPIRY = 2.0, 30.0
SHARED = {"nfs", "nfs4", "lustre", "beegfs", "gpfs", "ceph", "cifs", "smb3", "glusterfs", "afs", "9p", "orangefs"}
KINDS = ("lease", "flock")
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def needed(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Return whether claims in a folder are leases: `CAB_LOCKS` says so, or else the type of its file system.

    Raises `UsageError` for a value of `CAB_LOCKS` that is neither `lease` nor `flock`.
    """
    kind = os.environ.get("CAB_LOCKS")
    if kind is not None:
        if kind not in KINDS:
            raise UsageError(f"CAB_LOCKS={kind} is not known; set it to one of {', '.join(KINDS)}, or unset it")
        return kind == "lease"
    folder, depth, shared = folder.resolve(), -1, False
    for line in mounts.read_text(errors="surrogateescape").splitlines() if mounts.exists() else ():
        _, point, system, *_ = line.split()
        mount = Path(point.replace("\\040", " "))
        if folder.is_relative_to(mount) and len(mount.parts) >= depth:
            depth, shared = len(mount.parts), system.removeprefix("fuse.") in SHARED
    return shared


@contextmanager
def lease(
    path: Path,
    renewal: float = RENEWAL,
    expiry: float = EXPIRY,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
    waiting: Callable[[], None] = lambda: None,
) -> Iterator[Callable[[], bool] | None]:
    """Hold a lease; yields what says whether it is still held, or None where a living process holds it.

    A living owner is seen at its next renewal; `waiting` is called until then. An owner that stood still for longer
    than `expiry` may have lost it, so it asks again before it writes.
    """
    owner = uuid.uuid4().hex
    private = path.with_name(f".{path.name}.{owner}")
    descriptor = os.open(private, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            _renew(descriptor, owner, 0)
            held = _linked(private, path)
            while not held and _abandoned(path, expiry, renewal, clock, sleep, waiting):
                held = _linked(private, path)
        finally:
            private.unlink(missing_ok=True)
        if not held:
            yield None
            return
        ended = threading.Event()
        renewing = threading.Thread(target=_keep, args=(descriptor, owner, renewal, ended), daemon=True)
        renewing.start()
        try:
            yield lambda: _holds(path, owner)
        finally:
            ended.set()
            renewing.join()
            _remove(path, owner)
    finally:
        os.close(descriptor)


def _linked(private: Path, path: Path) -> bool:
    try:
        os.link(private, path)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then reports the link that it made itself
        return private.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        raise no_links(path.parent) from error
    return True


def no_links(folder: Path) -> UsageError:
    """Return the error of a folder in which there can be no lease."""
    return UsageError(
        f"{folder}: this file system has no hard links, which claims on shared disks need; choose another folder with "
        "--results, or set CAB_LOCKS=flock on every host and run on one host only"
    )


def _holds(path: Path, owner: str) -> bool:
    try:
        return (_content(path) or "").startswith(owner)
    except OSError:  # a server that is away: the lease may be lost, and what is not certain is not written
        return False


def _renew(descriptor: int, owner: str, count: int) -> None:
    os.pwrite(descriptor, f"{owner} {count:012d}".encode(), 0)
    os.fsync(descriptor)


def _keep(descriptor: int, owner: str, renewal: float, ended: threading.Event) -> None:
    count = 0
    while not ended.wait(renewal):
        count += 1
        try:
            _renew(descriptor, owner, count)
        except OSError:  # removed by another host, or a server that is away: the next round tries again
            continue


def _content(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:  # NFS: removed by another host while it was read
            return None
        raise


def _abandoned(
    path: Path,
    expiry: float,
    renewal: float,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
    waiting: Callable[[], None],
) -> bool:
    """Watch a lease: True when it is gone or was removed after `expiry` without a change, False at a change.

    Only time counts in which it was looked at regularly: while this process stood still, or the server was away, the
    owner could not be seen to renew it.
    """
    seen, since = _content(path), clock()
    looked = since
    while seen is not None and clock() - since < expiry:
        waiting()
        sleep(renewal / 4)
        now = _content(path)
        if now is not None and now != seen:
            return False
        seen = now
        if clock() - looked > renewal:
            since = clock()
        looked = clock()
    if seen is not None:
        _remove(path, seen)
    return True


def _remove(path: Path, content: str) -> None:
    """Remove the lease whose content begins so; another one, taken meanwhile, is put back."""
    if not (_content(path) or "").startswith(content):
        return
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except OSError:  # removed meanwhile; or a server that is away: the lease expires
        return
    if not (_content(aside) or "").startswith(content):
        try:
            os.link(aside, path)
        except FileExistsError:
            pass  # a third process has claimed it meanwhile: who asks before it writes learns that it is lost
    aside.unlink(missing_ok=True)
