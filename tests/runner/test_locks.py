"""Locks on devices and on pieces of work, which the kernel frees when a process dies."""

import os
from pathlib import Path

import pytest

from cab import environment, paths
from cab.errors import UsageError
from cab.runner import locks


def test_one_gpu_has_one_identity_and_one_lock_whatever_it_is_called(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(environment, "_nvidia", lambda query, gpu: asked.append(gpu) or f"card {gpu}")
    monkeypatch.setattr(locks, "runtime", lambda: tmp_path)

    def locked(device: str) -> set[str]:
        with locks.device(device, True):
            return {path.name for path in tmp_path.iterdir()}

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert environment.identity("cuda", 1, False) == environment.identity("cuda:0", 1, False)
    assert locked("cuda") == locked("cuda:0") == {"cuda0.lock"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    assert environment.identity("cuda", 1, False)["gpu"] == "card 3"
    assert locked("cuda:1") == {"cuda0.lock", "cudaGPU-8a.lock"}
    assert environment.identity("cpu", 1, False)["gpu"] is None and set(asked) == {"0", "3"}


def test_who_waits_is_told_who_holds_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locks, "runtime", lambda: tmp_path)
    told: list[str] = []

    class Enough(Exception):
        pass

    def waiting(holders: str) -> None:
        told.append(holders)
        raise Enough

    with locks.device("cpu", False), locks.device("cpu", False), pytest.raises(Enough):
        with locks.device("cpu", True, waiting):
            raise AssertionError("two hold it")
    assert told == [f" (held by processes {os.getpid()}, {os.getpid()})"]
    with locks.device("cpu", True), pytest.raises(Enough):
        with locks.device("cpu", False, waiting):
            raise AssertionError("another holds it alone")
    assert told[1:] == [f" (held by process {os.getpid()})"]


def test_all_processes_of_a_user_have_one_folder_whatever_a_login_or_a_job_exports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CAB_LOCK_FOLDER", raising=False)
    folders = set()
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        folders.add(paths.runtime())
        monkeypatch.setenv(name, str(tmp_path))
        folders.add(paths.runtime())
        monkeypatch.delenv(name)
        folders.add(paths.runtime())
    assert folders == {Path(f"/tmp/cab-{os.getuid()}")}
    monkeypatch.setenv("CAB_LOCK_FOLDER", str(tmp_path / "mine"))
    with locks.device("cpu", True):
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["cpu.lock"]
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_hold_locks_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAB_LOCK_FOLDER", str(tmp_path / "file" / "locks"))
    with pytest.raises(UsageError, match="file/locks: Not a directory; name another folder with CAB_LOCK_FOLDER"):
        with locks.device("cpu", True):
            raise AssertionError("it is locked")
    monkeypatch.setenv("CAB_LOCK_FOLDER", str(tmp_path))
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(UsageError, match="it is another user's"):
        with locks.device("cpu", True):
            raise AssertionError("it is locked")
