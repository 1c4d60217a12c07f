"""How long Long Range Arena's generated data take, each in a process of its own: start and imports included.

    python benchmarks/generators.py

Claims on two cores, once numba's compiled code lies in its cache: the 100,000 examples of ListOps within 4 s as token
arrays and 8 s as the release's files; Pathfinder 1 ms an image of 32 by 32 pixels, Path-X 12 ms an image.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SMALL, LARGE = 20_000, 2_000  # images
ARRAYS = "from cab.data import listops; listops.generate(0, 0, 100_000)"


def main() -> None:
    """Print wall and CPU seconds of the second run: the first one compiles."""
    cab = str(Path(sys.executable).with_name("cab"))
    for name, command, count, limit in (
        ("ListOps, token arrays", [sys.executable, "-c", ARRAYS], 1, "4 s"),
        ("ListOps, the release's files", [cab, "data", "get", "lra_listops", "--layout", "release"], 1, "8 s"),
        (f"Pathfinder-32, {SMALL:,} files", _images(cab, "lra_pathfinder", 32, SMALL), SMALL, "1 ms an image"),
        (f"Path-X, {LARGE:,} files", _images(cab, "lra_pathx", 128, LARGE), LARGE, "12 ms an image"),
    ):
        for _ in range(2):
            with tempfile.TemporaryDirectory() as folder:
                before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        each = f", {1000 * wall / count:.2f} ms each" if count > 1 else ""
        print(f"{name}: {wall:.1f} s, {spent:.1f} CPU s{each} (at most {limit})")


def _images(cab: str, task: str, size: int, count: int) -> list[str]:
    return [cab, "data", "get", task, "--folder", ".", "--images", str(count), "--size", str(size)]


if __name__ == "__main__":
    main()
