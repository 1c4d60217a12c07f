"""Locks on devices and on pieces of work, which the kernel frees when a process dies."""

import os
from pathlib import Path

import pytest

from cab import environment
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
