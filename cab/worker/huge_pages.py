"""Huge pages for what a fork server has in memory, so that a fork copies hundreds of page-table entries, not thousands.

Torch, its modules and the plug-ins are 220 MB of private memory: in 4 KiB pages a fork and the child's end took 22 ms
of the kernel's time on the machine of the README, in huge ones 7. Nothing is asked for memory that comes later, so what
a child allocates and measures is laid out as ever.
"""

import ctypes
import mmap
from pathlib import Path

_COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1
_HUGE = 2 << 20


def collapse() -> int:
    """Put this process's own memory into huge pages where whole ones fit; return how many. 0 where Linux cannot."""
    if mmap.PAGESIZE != 4096:  # huge pages are then of another size
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    done = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, *_, inode = line.split(maxsplit=5)[:5]
        if access != "rw-p" or inode != "0":  # read-only or of a file: not copied, or not ours to move
            continue
        first, last = (int(address, 16) for address in addresses.split("-"))
        for place in range(-(-first // _HUGE) * _HUGE, last - _HUGE + 1, _HUGE):
            done += not madvise(place, _HUGE, _COLLAPSE)
    return done
