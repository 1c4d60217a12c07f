"""Instructions by a fake callgrind: few machines have it."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils import benchmark

from cab.meters.instructions import CALLS, Instructions


def test_instructions_need_valgrind_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "apt install valgrind" in (Instructions().unavailable("cpu") or "")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/valgrind")
    assert Instructions().unavailable("cpu") is None
    assert "cuda" in (Instructions().unavailable("cuda") or "")


def test_instructions_are_of_one_call_of_the_case_set_up_anew(
    stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: dict[str, str] = {}

    class Timer:
        def __init__(self, stmt: str, setup: str, num_threads: int) -> None:
            timed.update(stmt=stmt, setup=setup)

        def collect_callgrind(self, number: int, **options: Any) -> Any:
            assert os.environ["PATH"].startswith(str(Path(sys.executable).parent))
            return SimpleNamespace(counts=lambda denoise: 1200 * number)

    monkeypatch.setattr(benchmark, "Timer", Timer)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    workload = stub_workload(calls=4, plugins=SimpleNamespace(folder=Path("data")))
    case = SimpleNamespace(question=lambda: {"n": 8})
    assert Instructions().measure(workload, case) == {"instructions": {"samples": [300.0], "calls": CALLS}}
    assert "again({'n': 8}, 'data')" in timed["setup"] and timed["stmt"] == "run()"

    def fail(self: Any, number: int, **options: Any) -> None:
        raise OSError("Failed to collect callgrind profile:\n\nModuleNotFoundError: no torch\n")

    monkeypatch.setattr(Timer, "collect_callgrind", fail)
    with pytest.raises(RuntimeError, match="callgrind: ModuleNotFoundError: no torch"):
        Instructions().measure(workload, case)


@pytest.mark.long  # minutes under Valgrind, which imports torch for each count
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_two_counts_of_one_case_agree_within_a_thousandth(make_workload: Callable[..., Any]) -> None:
    # millions of instructions, of which some thousands are Python's own and vary
    workload = make_workload(n=128, m=128)
    first, second = (
        Instructions().measure(workload, replace(workload.case))["instructions"]["samples"][0] for _ in range(2)
    )
    assert first == pytest.approx(second, rel=1e-3) and first > 1e4
