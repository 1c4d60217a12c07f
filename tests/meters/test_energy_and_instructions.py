"""Energy on counters of our own, instructions by a stand-in for callgrind: few machines have either."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils import benchmark

from cab import Unsupported
from cab.meters import energy
from cab.meters.energy import Energy
from cab.meters.instructions import CALLS, Instructions


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree as the kernel shows it, with one package."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("5000000\n")
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    return zone


def installed(monkeypatch: pytest.MonkeyPatch, measured: Any) -> list[dict[str, Any]]:
    """Put a package in zeus's place, with its names and shapes (0.16); return what its monitors are asked for."""
    asked: list[dict[str, Any]] = []

    class ZeusMonitor:
        def __init__(self, gpu_indices: list[int] | None = None, cpu_indices: list[int] | None = None) -> None:
            asked.append({"gpu": gpu_indices, "cpu": cpu_indices})

        def begin_window(self, key: str, sync_execution: bool = True) -> None:
            asked[-1]["sync"] = sync_execution

        def end_window(self, key: str, sync_execution: bool = True) -> Any:
            return measured

    package, monitor = ModuleType("zeus"), ModuleType("zeus.monitor")
    monitor.ZeusMonitor = ZeusMonitor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus", package)
    monkeypatch.setitem(sys.modules, "zeus.monitor", monitor)
    monkeypatch.setattr(energy, "find_spec", lambda name: object())
    return asked


def call(device: str = "cpu", calls: int = 1) -> SimpleNamespace:
    return SimpleNamespace(run=lambda: None, calls=calls, device=torch.device(device))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a call takes half a second."""
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5
        return now[0]

    monkeypatch.setattr(energy.time, "perf_counter", clock)


def test_energy_says_what_is_missing(counters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Energy()
    monkeypatch.setattr(energy, "find_spec", lambda name: None)
    assert "zeus is not installed" in (meter.unavailable("cpu") or "") and "zeus" in (meter.unavailable("cuda:0") or "")
    assert "no energy counter for mps" in (meter.unavailable("mps") or "")
    monkeypatch.setattr(energy, "find_spec", lambda name: object())
    assert meter.unavailable("cpu") is None and meter.unavailable("cuda") is None

    def forbidden(self: Path, *args: Any) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as here:  # root may read what nobody may: no mode would stop it
        here.setattr(Path, "read_text", forbidden)
        assert "cannot be read (Permission denied)" in (meter.unavailable("cpu") or "")
    shutil.rmtree(counters)
    assert "no energy counter of the CPU" in (meter.unavailable("cpu") or "")


def test_energy_is_joules_a_call_and_keeps_its_window(monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    asked = installed(monkeypatch, SimpleNamespace(time=5.5, cpu_energy={0: 90.0, 1: 10.0}, gpu_energy={}))
    found = Energy().measure(call(calls=4), None)["energy"]
    assert asked == [{"gpu": [], "cpu": None, "sync": False}]
    assert found["window"] == 5.5 and found["samples"] == [100.0 / found["calls"] / 4]
    assert 0.5 * (found["calls"] + 1) >= energy.WINDOW
    reading = Energy().reduce("energy", [{**found, "samples": [v]} for v in (1.0, 1.1, 0.9)])
    assert reading.value == 1.0 and reading.ci_low < 1.0 < reading.ci_high and "5.5 s" in reading.stop_reason


def test_energy_of_a_gpu_is_that_gpus_alone(monkeypatch: pytest.MonkeyPatch, hurried: None) -> None:
    asked = installed(monkeypatch, SimpleNamespace(time=6.0, cpu_energy=None, gpu_energy={1: 60.0}))
    found = Energy().measure(call("cuda:1"), None)["energy"]
    assert asked == [{"gpu": [1], "cpu": [], "sync": True}] and found["samples"] == [60.0 / found["calls"]]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (SimpleNamespace(time=4.9, cpu_energy={0: 90.0}, gpu_energy={}), "less than 5 s"),
        (SimpleNamespace(time=5.5, cpu_energy={0: 0.0}, gpu_energy={}), "did not move"),
        (SimpleNamespace(time=5.5, cpu_energy=None, gpu_energy={}), "did not move"),
    ],
)
def test_energy_is_refused_below_its_window_and_from_counters_that_stand_still(
    monkeypatch: pytest.MonkeyPatch, hurried: None, seen: Any, why: str
) -> None:
    installed(monkeypatch, seen)
    with pytest.raises(Unsupported, match=why):
        Energy().measure(call(), None)


def test_instructions_need_valgrind_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "apt install valgrind" in (Instructions().unavailable("cpu") or "")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/valgrind")
    assert Instructions().unavailable("cpu") is None
    assert "cuda" in (Instructions().unavailable("cuda") or "")


def test_instructions_are_of_one_call_of_the_case_set_up_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}

    class Timer:
        def __init__(self, stmt: str, setup: str, num_threads: int) -> None:
            given.update(stmt=stmt, setup=setup)

        def collect_callgrind(self, number: int, **how: Any) -> Any:
            assert os.environ["PATH"].startswith(str(Path(sys.executable).parent))
            return SimpleNamespace(counts=lambda denoise: 1200 * number)

    monkeypatch.setattr(benchmark, "Timer", Timer)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    made = SimpleNamespace(calls=4, plugins=SimpleNamespace(folder=Path("data")))
    case = SimpleNamespace(question=lambda: {"n": 8})
    assert Instructions().measure(made, case) == {"instructions": {"samples": [300.0], "calls": CALLS}}
    assert "again({'n': 8}, 'data')" in given["setup"] and given["stmt"] == "run()"

    def failed(self: Any, number: int, **how: Any) -> None:
        raise OSError("Failed to collect callgrind profile:\n\nModuleNotFoundError: no torch\n")

    monkeypatch.setattr(Timer, "collect_callgrind", failed)
    with pytest.raises(RuntimeError, match="callgrind: ModuleNotFoundError: no torch"):
        Instructions().measure(made, case)


@pytest.mark.long  # minutes under Valgrind, which imports torch for each count
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_two_counts_of_one_case_agree_within_a_thousandth() -> None:
    from tests.meters.test_meters import workload

    made = workload(n=128, m=128)  # millions of instructions, of which some thousand are Python's own and vary
    first, second = (Instructions().measure(made, replace(made.case))["instructions"]["samples"][0] for _ in range(2))
    assert first == pytest.approx(second, rel=1e-3) and first > 1e4
