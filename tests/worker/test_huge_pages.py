"""Memory that is put into huge pages keeps its content, and a forked child sees it as before."""

import os
import subprocess
import sys

SCRIPT = """
import os, sys
from pathlib import Path
from cab.worker.huge_pages import collapse

content = bytearray(range(256)) * (1 << 17)
collapsed = collapse()
huge = [int(line.split()[1]) for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "AnonHuge" in line]
assert content == bytearray(range(256)) * (1 << 17)
child = os.fork()
if not child:
    content[12345] += 1
    os._exit(not (content[12345] == 12345 % 256 + 1 and content[:12345] == (bytearray(range(256)) * 49)[:12345]))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert content == bytearray(range(256)) * (1 << 17)
print(collapsed, huge[0])
"""


def test_what_is_in_huge_pages_is_what_it_was() -> None:
    script = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=os.environ)
    collapsed, huge_kib = map(int, script.stdout.split())
    assert huge_kib >= 2048 * min(collapsed, 1)  # none where this Linux cannot
    # 32 MiB of content hold 15 whole huge pages wherever they begin
    assert collapsed == 0 or collapsed >= 15
