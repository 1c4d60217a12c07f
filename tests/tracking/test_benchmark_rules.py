"""benchmarks/track.py: the rules that it holds side by side, on simulated pairs."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "track.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_track", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def simulate(script: ModuleType, between: float, within: float) -> dict[str, list[Any]]:
    """Draw pairs of the same code: processes differ by `between`, samples of one process by `within`."""
    random = np.random.default_rng(0)

    def samples() -> list[float]:
        level = random.normal(0, between)
        return list(1e-3 * np.exp(level + within * random.standard_normal(20)))

    return {f"case {i}": [script.Pair(samples(), samples(), [True, False] * 10) for _ in range(36)] for i in range(6)}


def test_rules_for_single_processes_take_their_spread_for_a_change_and_track_does_not(script: ModuleType) -> None:
    cases = simulate(script, between=0.03, within=0.01)
    hits, tries = script.found_by_track(cases, 0.0)
    assert tries == 12 and hits <= 1
    assert script.found_by_track(cases, 0.2) == (12, 12)
    for name in ("pytest-benchmark, mean:5%", "Mann-Whitney, p < .05"):
        wrong, pairs = script.found_by(script.SINGLE_RULES[name], cases, 0.0)
        assert pairs == 216 and wrong / pairs > 0.08


def test_every_rule_finds_what_is_plain(script: ModuleType) -> None:
    cases = simulate(script, between=0.0, within=0.005)
    for rule in script.SINGLE_RULES.values():
        assert script.found_by(rule, cases, 0.3) == (216, 216)
    text = script.table(cases)
    assert text.count("\n") == 3 + len(script.SINGLE_RULES) and "+20%" in text and "to" in text


def test_the_promised_rates_are_counted_over_runs(script: ModuleType) -> None:
    cases = simulate(script, between=0.01, within=0.005)
    kernel = cases.pop("case 5")
    assert script.void_runs(cases, kernel) == (0, 2)
    same, tries = script.same_when_settled(cases)
    assert tries == 10 and same >= 8
    assert script.admitted(cases, 0.05) == list(cases) and script.admitted(cases, 0.005) == []
    # a kernel that jumps makes every run unproven
    assert script.void_runs(cases, [pair.slower(0.3) for pair in kernel]) == (2, 2)
    text = script.numbers(cases, kernel)
    assert "cases that calibrate admits at 5%: 100.0%" in text and "in the runs after the calibration: too few" in text


def test_pairs_that_are_kept_are_not_measured_again(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[str]()

    def measured(
        base: object, head: object, question: dict[str, Any], caches: Path, first: bool, servers: object
    ) -> dict[str, Any]:
        calls.append(question["mechanism"])
        return {"base": [1.0], "head": [1.1], "flipped": [True], "log_ratio": 0.1}

    monkeypatch.setattr(script, "measure_pair", measured)
    monkeypatch.setattr(script, "installed_side", lambda: None)
    cases = [script.reference_kernel()]
    assert script.measure(cases, 3, tmp_path, only_kept=True) == {}
    first = script.measure(cases, 3, tmp_path)
    assert script.measure(cases, 3, tmp_path) == first and len(calls) == 3
    assert script.measure(cases, 9, tmp_path, only_kept=True) == first
