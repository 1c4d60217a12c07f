"""What a machine can find: more noise hides more, and a threshold below it is refused."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from cab.errors import UsageError
from cab.tracking.calibrating import calibrate_and_print
from cab.tracking.calibration import (
    CaseCalibration,
    FalseAlarms,
    calibrate_case,
    false_alarms,
    keep,
    load,
    power,
    refuse_thresholds_below,
)
from cab.tracking.cases import TrackedCase
from cab.tracking.sides import Side
from cab.tracking.verdicts import Minimum


def pairs(spread: float, count: int = 36) -> list[float]:
    return list(np.random.default_rng(0).normal(0, spread, count))


def test_more_noise_hides_larger_slowdowns() -> None:
    quiet, loud = calibrate_case(pairs(0.01), 20), calibrate_case(pairs(0.05), 20)
    assert quiet.smallest and loud.smallest and quiet.smallest <= 0.02 < loud.smallest < 0.15
    assert 0.007 < quiet.noise < 0.013 and quiet.pairs == 36
    assert calibrate_case([2.0, -2.0] * 18, 20).smallest is None


def test_the_smallest_effect_is_found_as_often_as_it_says() -> None:
    found = calibrate_case(pairs(0.04), 20).smallest
    assert found and power(pairs(0.04), found, 20, tries=400) >= 0.75 > power(pairs(0.04), found / 2, 20, tries=400)


def test_false_alarms_are_counted_over_disjoint_runs() -> None:
    same = {f"case {i}": list(np.random.default_rng(i).normal(0, 0.03, 54)) for i in range(10)}
    alarms = false_alarms(same, Minimum())
    assert alarms.runs == 30 and alarms.alarms <= 1 and alarms.interval[1] < 0.2
    moved = {"a": [0.2 + value for value in pairs(0.01)]}
    assert false_alarms(moved, Minimum()) == FalseAlarms(2, 2)


def test_it_is_kept_case_by_case(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    assert load(path) == {}
    keep(path, {"a": CaseCalibration(0.01, 0.02, 36)})
    keep(path, {"b": CaseCalibration(0.1, None, 36)})
    assert load(path) == {"a": CaseCalibration(0.01, 0.02, 36), "b": CaseCalibration(0.1, None, 36)}


@pytest.mark.parametrize("text", ["[1]", "{", '{"a": {"noise": 1}}'])
def test_a_damaged_file_is_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"calibration\.json cannot be read .*; delete it"):
        load(path)


class Pairs:
    """Stands for pairs of processes; is interrupted at one of them."""

    def __init__(self, interrupted_at: int = -1) -> None:
        self.count, self.interrupted_at = 0, interrupted_at

    def __call__(self, base: Side, head: Side, case: Mapping[str, Any], caches: Path, first: bool) -> dict[str, Any]:
        if self.count == self.interrupted_at:
            raise KeyboardInterrupt
        self.count += 1
        return {"base": [0.001], "head": [0.001], "log_ratio": 0.001 * (-1) ** self.count, "counts": {}}


def test_a_killed_calibration_goes_on_and_a_finished_one_is_measured_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    cases = [TrackedCase("one", {"mechanism": "one"})]

    def calibrate(measure: Pairs) -> int:
        out = Console(file=StringIO())
        calibrate_and_print(cases, 1, Minimum(), elsewhere / "results", out, lambda line: None, measure)
        return measure.count

    with pytest.raises(KeyboardInterrupt):
        calibrate(Pairs(5))
    assert calibrate(Pairs()) == 13
    assert calibrate(Pairs()) == 18


def test_a_threshold_below_what_is_found_is_refused_with_the_pairs_it_would_take() -> None:
    known = {"a": CaseCalibration(0.05, 0.06, 36), "b": CaseCalibration(9.0, None, 36)}
    with pytest.raises(UsageError, match="a: 6% is found, some 72 pairs would find 3%; b: not even a doubling"):
        refuse_thresholds_below(known, ["a", "b", "unknown"], Minimum(0.03))
    refuse_thresholds_below(known, ["a", "unknown"], Minimum(0.06))
