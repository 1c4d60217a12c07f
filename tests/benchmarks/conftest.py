"""Kernel benchmarks are collected when they are asked for: `pytest -n 0 --benchmark-only tests/benchmarks`."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the benchmarks out of every other run."""
    return None if config.getoption("benchmark_only", False) else True
