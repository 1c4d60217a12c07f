"""The machine that measures. Its identity decides which timings are comparable; its details are only recorded."""

import os
import platform
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cab.contracts.case import digest
from cab.paths import PACKAGE


def identity(device: str, threads: int | None, pinned: bool) -> dict[str, Any]:
    """Return what times and memory depend on: machine, CPU or GPU, threads, allocator and versions.

    `threads` is None for all usable cores. `pinned` says whether the allocator is pinned. Imports no torch.
    """
    on_gpu = device.startswith("cuda")
    return {
        "host": platform.node(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": _nvidia("name", physical(device)) if on_gpu else None,
        "device": f"cuda:{index(device)}" if on_gpu else device,
        "threads": threads or usable_cores(),
        "allocator": f"{_libc()}{', pinned' if pinned else ''}",
        "python": platform.python_version(),
        "torch": installed("torch"),
        "driver": _nvidia("driver_version", physical(device)) if on_gpu else None,
    }


def index(device: str) -> int:
    """Return N of `cuda:N`, and 0 of `cuda`: an index among the GPUs that this process sees."""
    return int(device.partition(":")[2] or 0)


def physical(device: str) -> str:
    """Return the GPU's index or UUID on the machine, which is the same for every process."""
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[index(device)] if index(device) < len(visible) else str(index(device))


def environment_id(facts: dict[str, Any]) -> str:
    """Return the id of an identity: equal identities have equal ids."""
    return digest(facts, 12)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def details() -> dict[str, Any]:
    """Return the current clock rate, load and kernel, which are only recorded."""
    return {"clock_mhz": _clock(), "load": round(os.getloadavg()[0], 2), "kernel": platform.release()}


@lru_cache
def installed(package: str) -> str | None:
    """Return the version of an installed package, or None, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache
def commit() -> str:
    """Return the commit of `cab`'s checkout, with `+` where files differ from it; the version without a checkout."""
    if not (PACKAGE.parent / ".git").exists():
        return f"v{version('cab-bench')}" if installed("cab-bench") else "unknown"
    git = ["git", "-C", str(PACKAGE.parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    if head.returncode != 0:
        return "unknown"
    return head.stdout.strip() + ("+" if status.stdout.strip() else "")


def available_memory() -> int:
    """Return the bytes that a new process can allocate without swapping, within the limits of its control groups."""
    return max(0, min([_meminfo().get("MemAvailable", 0), *_left_in_groups()]))


def _left_in_groups(groups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yield the bytes that are left in this process's control group and in each above it that has a limit.

    `groups` is where they are mounted, and a line of `own` is `0::/slurm/job_7`, or with version 1
    `9:memory:/slurm/job_7`. What a group keeps of files goes when memory is needed, so it counts as left.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        lines = []
    paths = {kinds: path for _, kinds, path in lines if ".." not in path}  # which stands for what is not mounted here
    of_version_1 = next((path for kinds, path in paths.items() if "memory" in kinds.split(",")), "/")
    for root, path, limit, used, files in (
        (groups, paths.get("", "/"), "memory.max", "memory.current", "inactive_file"),
        (groups / "memory", of_version_1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        folder = root / path.strip("/")
        for group in (folder, *folder.parents[: len(folder.parts) - len(root.parts)]):
            try:
                most, taken = (int((group / name).read_text()) for name in (limit, used))
            except (OSError, ValueError):  # no such control group, or no limit ("max")
                continue
            yield most - taken + _statistic(group / "memory.stat", files)


def _statistic(file: Path, name: str) -> int:
    """Return one of a control group's statistics, in bytes; 0 where it is not there."""
    try:
        return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name} "))
    except (OSError, StopIteration):
        return 0


def _meminfo() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


@lru_cache
def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@lru_cache
def _libc() -> str:
    return "-".join(platform.libc_ver()) or "libc"


def _clock() -> float | None:
    try:
        clocks = [
            float(line.partition(":")[2])
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("cpu MHz")
        ]
    except (OSError, ValueError):
        return None
    return max(clocks, default=None)


@lru_cache
def _nvidia(query: str, gpu: str) -> str | None:
    try:
        result = subprocess.run(
            ["nvidia-smi", "-i", gpu, f"--query-gpu={query}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.strip().splitlines()
    return lines[0] if result.returncode == 0 and lines else None
