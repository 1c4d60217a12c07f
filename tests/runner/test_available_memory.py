"""What is free is what the process's own control groups leave, as Slurm and systemd set them."""

from pathlib import Path

import pytest

from cab import environment

GIB = 2**30
NO_LIMIT = 0x7FFFFFFFFFFFF000  # as version 1 writes it


def group(folder: Path, limit: object, used: int, version: int = 2, files: int = 0) -> None:
    """Write a control group as the kernel shows it, with limit, use and inactive pages of files in bytes."""
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    prefix = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(f"anon 4096\n{prefix}inactive_file {files}\n")


def left(tmp_path: Path, own: str) -> list[float]:
    (tmp_path / "self").write_text(own)
    return [each / GIB for each in environment._left_in_groups(tmp_path / "groups", tmp_path / "self")]


def test_the_limits_of_the_own_group_and_of_those_above_it_count(tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    group(groups / "slurm" / "job_7" / "step_0", "max", 1 * GIB)
    group(groups / "slurm" / "job_7", 8 * GIB, 1 * GIB)
    group(groups / "slurm", 4 * GIB, 2 * GIB)
    group(groups / "other", 1 * GIB, 1 * GIB)
    assert left(tmp_path, "0::/slurm/job_7/step_0\n") == [7, 2]
    assert left(tmp_path, "0::/\n") == []


def test_in_a_container_the_group_that_is_its_root_counts(tmp_path: Path) -> None:
    group(tmp_path / "groups", 8 * GIB, 3 * GIB)
    for own in ("0::/\n", "0::/docker/4f1a\n", "0::/../4f1a\n", ""):
        assert left(tmp_path, own) == [5]


def test_pages_of_files_that_were_read_are_left(tmp_path: Path) -> None:
    group(tmp_path / "groups" / "job", 8 * GIB, 7 * GIB, files=4 * GIB)
    assert left(tmp_path, "0::/job\n") == [5]
    (tmp_path / "groups" / "job" / "memory.stat").unlink()
    assert left(tmp_path, "0::/job\n") == [1]


def test_groups_of_version_1_have_a_tree_of_their_own(tmp_path: Path) -> None:
    memory = tmp_path / "groups" / "memory"
    group(memory / "slurm" / "job_7", 6 * GIB, 2 * GIB, version=1, files=1 * GIB)
    group(memory, NO_LIMIT, 9 * GIB, version=1)
    own = "9:cpu,cpuacct:/elsewhere\n5:memory:/slurm/job_7\n1:name=systemd:/init.scope\n0::/init.scope\n"
    assert left(tmp_path, own)[0] == 5 and len(left(tmp_path, own)) == 2


def test_the_smallest_limit_counts_and_nothing_is_below_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_meminfo", lambda: {"MemAvailable": 3 * GIB})
    for groups, available in (([], 3), ([5 * GIB], 3), ([2 * GIB, 1 * GIB], 1), ([-GIB], 0)):
        monkeypatch.setattr(environment, "_left_in_groups", lambda groups=groups: iter(groups))
        assert environment.available_memory() == available * GIB
