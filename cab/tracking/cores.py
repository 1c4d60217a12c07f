"""The core on which both sides of a pair are sampled: cores differ, and so does what else runs on them."""

import os
import time
from pathlib import Path

SECONDS = 0.05  # over which cores are watched; the kernel counts in hundredths of a second
STATISTICS = Path("/proc/stat")


def idlest_core(seconds: float = SECONDS) -> int | None:
    """Return the core, of those that this process may use, which was idle for longest just now.

    None where the system does not let a process choose (macOS, Windows). Of equals it is the last: the first one serves
    most interrupts.
    """
    if not hasattr(os, "sched_setaffinity"):
        return None
    before = _idle_ticks()
    time.sleep(seconds)
    after = _idle_ticks()
    allowed = os.sched_getaffinity(0)
    return max(allowed, key=lambda core: (after.get(core, 0) - before.get(core, 0), core))


def _idle_ticks() -> dict[int, int]:
    """Return for how many ticks each core has been idle since the start; nothing where that is not told."""
    try:
        rows = [line.split() for line in STATISTICS.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return {}
    # the first row is the sum of all; the columns are user, nice, system, idle, waiting for input or output
    return {int(row[0].removeprefix("cpu")): int(row[4]) + int(row[5]) for row in rows if row[0] != "cpu"}
