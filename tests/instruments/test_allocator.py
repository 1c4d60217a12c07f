"""Pinning the allocator, in processes of their own: it lasts for the whole process."""

import subprocess
import sys


def test_a_pinned_allocator_maps_no_block_and_an_unpinned_one_does() -> None:
    code = (
        "import sys, torch\nfrom cab.instruments import allocator\n"
        "pinned = sys.argv[1] == 'pinned'\n"
        "assert allocator.pin() if pinned else True\n"
        "before = allocator.mapped_bytes()\n"  # by imports
        "block = torch.ones(1 << 24)\n"
        "mapped = allocator.mapped_bytes() - before\n"
        "assert (mapped == 0) if pinned else (mapped >= 1 << 26), mapped"
    )
    for how in ("pinned", "unpinned"):
        subprocess.run([sys.executable, "-c", code, how], check=True)
