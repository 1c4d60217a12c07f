"""Energy by fake counters: few machines have readable ones."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cab import Unsupported
from cab.meters import energy
from cab.meters.energy import Energy


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree as the kernel shows it, with one package."""
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("5000000\n")
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    return zone


def install_zeus(monkeypatch: pytest.MonkeyPatch, window: Any) -> list[dict[str, Any]]:
    """Install a fake zeus with its names and signatures (0.16); return the arguments of its monitors."""
    monitors: list[dict[str, Any]] = []

    class ZeusMonitor:
        def __init__(self, gpu_indices: list[int] | None = None, cpu_indices: list[int] | None = None) -> None:
            monitors.append({"gpu": gpu_indices, "cpu": cpu_indices})

        def begin_window(self, key: str, sync_execution: bool = True) -> None:
            monitors[-1]["sync"] = sync_execution

        def end_window(self, key: str, sync_execution: bool = True) -> Any:
            return window

    package, module = ModuleType("zeus"), ModuleType("zeus.monitor")
    module.ZeusMonitor = ZeusMonitor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zeus", package)
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)
    monkeypatch.setattr(energy, "find_spec", lambda name: object())
    return monitors


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
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

    with monkeypatch.context() as patch:  # file permissions would not do: root may read the file whatever they say
        patch.setattr(Path, "read_text", forbidden)
        assert "cannot be read (Permission denied)" in (meter.unavailable("cpu") or "")
    shutil.rmtree(counters)
    assert "no energy counter of the CPU" in (meter.unavailable("cpu") or "")


@pytest.mark.usefixtures("fast_clock")
def test_energy_is_joules_a_call_and_keeps_its_window(
    stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    window = SimpleNamespace(time=5.5, cpu_energy={0: 90.0, 1: 10.0}, gpu_energy={})
    monitors = install_zeus(monkeypatch, window)
    result = Energy().measure(stub_workload(calls=4), None)["energy"]
    assert monitors == [{"gpu": [], "cpu": None, "sync": False}]
    assert result["window"] == 5.5 and result["samples"] == [100.0 / result["calls"] / 4]
    assert 0.5 * (result["calls"] + 1) >= energy.WINDOW_SECONDS
    reading = Energy().reduce("energy", [{**result, "samples": [v]} for v in (1.0, 1.1, 0.9)])
    assert reading.value == 1.0 and reading.ci_low < 1.0 < reading.ci_high and "5.5 s" in reading.stop_reason


@pytest.mark.usefixtures("fast_clock")
def test_energy_of_a_gpu_is_that_gpus_alone(stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monitors = install_zeus(monkeypatch, SimpleNamespace(time=6.0, cpu_energy=None, gpu_energy={1: 60.0}))
    result = Energy().measure(stub_workload(device="cuda:1"), None)["energy"]
    assert monitors == [{"gpu": [1], "cpu": [], "sync": True}] and result["samples"] == [60.0 / result["calls"]]


@pytest.mark.usefixtures("fast_clock")
@pytest.mark.parametrize(
    ("window", "reason"),
    [
        (SimpleNamespace(time=4.9, cpu_energy={0: 90.0}, gpu_energy={}), "less than 5 s"),
        (SimpleNamespace(time=5.5, cpu_energy={0: 0.0}, gpu_energy={}), "did not move"),
        (SimpleNamespace(time=5.5, cpu_energy=None, gpu_energy={}), "did not move"),
    ],
)
def test_energy_is_refused_below_its_window_and_from_counters_that_stand_still(
    window: Any, reason: str, stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_zeus(monkeypatch, window)
    with pytest.raises(Unsupported, match=reason):
        Energy().measure(stub_workload(), None)
