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

    return {f"case {i}": [script.Pair(samples(), samples()) for _ in range(36)] for i in range(6)}


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
    assert text.count("\n") == 2 + len(script.SINGLE_RULES) and "+20%" in text and "to" in text
