"""Pin glibc's allocator, so that timing does not depend on its history.

glibc serves a large block either from the heap or from freshly mapped pages (mmap). A threshold decides, and it moves
with earlier allocations. glibc also returns the top of the heap to the kernel from time to time. So one kernel can run
at two speeds, up to twofold apart, depending on what was allocated before it. Once the allocator is pinned, every block
comes from the heap and the heap never shrinks: after its first run a kernel finds its pages already mapped.
"""

import ctypes
from functools import lru_cache

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
PROBE_BYTES = 1 << 20


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
    """Return free memory to the kernel; False where the allocator is not glibc's."""
    if not is_glibc():
        return False
    ctypes.CDLL(None).malloc_trim(0)
    return True


def mapped_bytes() -> int:
    """Return the bytes of the blocks that were served by mmap; 0 in a pinned process."""
    return int(_mallinfo2(ctypes.CDLL(None)).hblkhd) if is_glibc() else 0


@lru_cache
def is_glibc() -> bool:
    """Whether `malloc` is glibc's own. Another one (preloaded jemalloc, musl) would ignore `mallopt` silently.

    The test: glibc's statistics must show a block that `malloc` has just served.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return False
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    before = _allocated_bytes(libc)
    block = libc.malloc(PROBE_BYTES)
    after = _allocated_bytes(libc)
    libc.free(block)
    return after - before >= PROBE_BYTES


def _allocated_bytes(libc: ctypes.CDLL) -> int:
    info = _mallinfo2(libc)
    return int(info.uordblks) + int(info.hblkhd)


def _mallinfo2(libc: ctypes.CDLL) -> _Mallinfo2:
    libc.mallinfo2.restype = _Mallinfo2
    info: _Mallinfo2 = libc.mallinfo2()
    return info
