"""Every test has a cache, a runtime folder and a working folder of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> None:
    import os

    folder = tmp_path_factory.mktemp("cab")
    os.environ["CAB_CACHE"] = str(folder / "cache")  # shared by a session's tests: laws are run once
    os.environ["CAB_LOCK_FOLDER"] = str(folder / "locks")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, as a user does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
