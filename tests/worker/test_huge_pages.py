"""Memory that is put into huge pages keeps its content, and a forked child sees it as before."""

import os
import subprocess
import sys

SCRIPT = """
import os, sys
from pathlib import Path
from cab.worker.huge_pages import collapse

content = bytearray(range(256)) * (1 << 17)
found = collapse()
huge = [int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "AnonHuge" in line]
assert content == bytearray(range(256)) * (1 << 17)
child = os.fork()
if not child:
    content[12345] += 1
    os._exit(not (content[12345] == 12345 % 256 + 1 and content[:12345] == (bytearray(range(256)) * 49)[:12345]))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert content == bytearray(range(256)) * (1 << 17)
print(found, huge[0])
"""


def test_what_is_in_huge_pages_is_what_it_was() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=os.environ)
    found, huge = map(int, done.stdout.split())
    assert huge >= 2048 * min(found, 1)  # KiB; 0 where this Linux cannot
    # 32 MiB of content hold 15 whole huge pages wherever they begin
    assert found == 0 or found >= 15
