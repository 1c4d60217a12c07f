"""Instructions by a fake callgrind: few machines have it."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cab.instruments.callgrind import CALLS, count_instructions
from cab.meters import instructions
from cab.meters.instructions import Instructions


def test_instructions_need_valgrind_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "apt install valgrind" in (Instructions().unavailable("cpu") or "")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/valgrind")
    assert Instructions().unavailable("cpu") is None
    assert "cuda" in (Instructions().unavailable("cuda") or "")


def test_without_valgrind_the_meter_and_a_count_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # an empty folder
    assert Instructions().unavailable("cpu") == "valgrind is not installed (apt install valgrind)"
    with pytest.raises(RuntimeError, match=r"^valgrind is not installed \(apt install valgrind\)$"):
        count_instructions("run = print")


def test_instructions_are_of_one_call_of_the_case_set_up_anew(
    stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    setups = list[str]()
    monkeypatch.setattr(instructions, "count_instructions", lambda setup: setups.append(setup) or 1200)
    workload = stub_workload(calls=4, plugins=SimpleNamespace(folder=Path("data")))
    case = SimpleNamespace(question=lambda: {"n": 8})
    assert Instructions().measure(workload, case) == {"instructions": {"samples": [300.0], "calls": CALLS}}
    assert setups == ["from cab.worker.jobs import again\nrun = again({'n': 8}, 'data')"]


@pytest.mark.long  # minutes under Valgrind, which imports torch for each count
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_two_counts_of_one_case_agree_within_a_ten_thousandth(make_workload: Callable[..., Any]) -> None:
    workload = make_workload(n=128, m=128)
    first, second = (
        Instructions().measure(workload, replace(workload.case))["instructions"]["samples"][0] for _ in range(2)
    )
    assert first == pytest.approx(second, rel=1e-4) and first > 1e4
