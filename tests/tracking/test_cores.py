"""The core that a pair is sampled on, from what the system says of its cores."""

import os
import time
from pathlib import Path

import pytest

from cab.tracking import cores
from cab.tracking.cores import idlest_core

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot choose its cores here")


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Three cores; by how many ticks each is idle while they are watched."""
    file, idle = tmp_path / "stat", {0: 0, 1: 0, 2: 0}

    def write(ticks: dict[int, int]) -> None:
        rows = [f"cpu{core} 900 0 50 {1000 - core + each} 7 0 0 0 0 0" for core, each in ticks.items()]
        file.write_text("\n".join(["cpu  9999 0 50 99999 7 0 0 0 0 0", *rows, "intr 1 2 3"]))

    write(dict.fromkeys(idle, 0))
    monkeypatch.setattr(cores, "STATISTICS", file)
    monkeypatch.setattr(time, "sleep", lambda seconds: write(idle))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(idle))
    return idle


def test_the_core_that_was_idle_for_longest_is_taken(watched: dict[int, int]) -> None:
    watched.update({0: 2, 1: 5, 2: 0})
    assert idlest_core() == 1


def test_of_equals_the_last_is_taken(watched: dict[int, int]) -> None:
    watched.update({0: 5, 1: 5, 2: 5})
    assert idlest_core() == 2


def test_a_core_that_this_process_may_not_use_is_not_taken(
    watched: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.update({0: 2, 1: 1, 2: 5})
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    assert idlest_core() == 0


def test_without_statistics_a_core_is_taken_all_the_same(
    watched: dict[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cores, "STATISTICS", tmp_path / "missing")
    assert idlest_core() == 2


def test_where_a_process_cannot_choose_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    assert idlest_core() is None
