"""glibc's allocator, held still for timing.

By default glibc serves a large block from fresh pages (mmap) or from the heap, whichever its moving threshold says,
and gives the heap's top back to the kernel when it feels like it. Which of these a kernel meets depends on what was
allocated before it, so one and the same kernel has two speeds, up to twofold apart. Pinned, every block comes from the
heap and the heap never shrinks: a kernel that has run once meets pages that are there already.
"""

import ctypes
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
PROBE = 1 << 20  # bytes


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    ]


def pin() -> bool:
    """Pin the allocator of this process, before its first tensor; False where the allocator is not glibc's."""
    if not is_glibc():
        return False
    libc = ctypes.CDLL(None)
    # -1 becomes the largest size_t: "disables trimming completely" (mallopt(3))
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))


def trim() -> bool:
    """Give what is free back to the kernel; False where the allocator is not glibc's."""
    if not is_glibc():
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def mapped() -> int:
    """Return the bytes of blocks that were served from fresh pages; 0 in a pinned process."""
    return int(_info(ctypes.CDLL(None)).hblkhd) if is_glibc() else 0


@lru_cache
def is_glibc() -> bool:
    """Whether `malloc` is glibc's own: another one (preloaded jemalloc, musl) would ignore `mallopt` silently."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return False
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = _held(libc)
    block = libc.malloc(PROBE)
    after = _held(libc)
    libc.free(block)
    return after - before >= PROBE


def _held(libc: ctypes.CDLL) -> int:
    info = _info(libc)
    return int(info.uordblks) + int(info.hblkhd)


def _info(libc: ctypes.CDLL) -> _Mallinfo2:
    libc.mallinfo2.restype = _Mallinfo2
    found: _Mallinfo2 = libc.mallinfo2()
    return found
