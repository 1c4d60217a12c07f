"""Locks on devices and on pieces of work, which the kernel frees when a process dies."""

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
