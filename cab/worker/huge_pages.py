"""Huge pages for the memory of a fork server: a fork then copies hundreds of page-table entries, not thousands.

Torch, its modules and the plug-ins are 220 MB of private memory. On the machine of the README a fork and the child's
end took 22 ms of the kernel's time in pages of 4 KiB, and 7 ms in huge pages. Memory that is allocated later is left
alone, so what a child measures is laid out as without this.
"""

import ctypes
import mmap
from pathlib import Path

_COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1
_HUGE = 2 << 20  # bytes


def collapse() -> int:
    """Put this process's own memory into huge pages where whole ones fit; return how many. 0 where Linux cannot."""
    if mmap.PAGESIZE != 4096:  # huge pages then have another size than _HUGE
        return 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    collapsed = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, access, *_, inode = line.split(maxsplit=5)[:5]
        if access != "rw-p" or inode != "0":  # read-only or of a file: not copied, or not ours to move
            continue
        start, end = (int(address, 16) for address in addresses.split("-"))
        first = -(-start // _HUGE) * _HUGE  # the first multiple of a huge page's size
        for address in range(first, end - _HUGE + 1, _HUGE):
            if madvise(address, _HUGE, _COLLAPSE) == 0:
                collapsed += 1
    return collapsed
