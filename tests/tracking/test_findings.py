"""Findings: changes are kept by commit, each machine's apart, and an acknowledgement says why."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cab.errors import UsageError
from cab.tracking.findings import COUNT_UNIT, RATIO_METRIC, accept, environments, findings, refresh
from cab.tracking.history import Point, append

POINT = Point("c1", 1000.0, "softmax", "e1", "latency", 0.002, "s", "cab", 5000.0)


def with_step(at: int, count: int = 50, **changes: str) -> list[Point]:
    values = 0.002 * np.exp(np.random.default_rng(0).normal(0, 0.01, count))
    values[at:] *= 1.2
    return [replace(POINT, commit=f"commit{i}", time=float(i), value=float(v), **changes) for i, v in enumerate(values)]


def test_a_step_is_named_by_its_commits(tmp_path: Path) -> None:
    append(tmp_path, with_step(30))
    refresh(tmp_path, ["e1"])
    (found,) = findings(tmp_path)
    assert (found.before, found.commit, found.kind, found.open) == ("commit29", "commit30", "step", True)
    assert found.share == pytest.approx(0.2, abs=0.02)


def test_machines_are_judged_apart(tmp_path: Path) -> None:
    # in one history these would be a step at every commit
    append(tmp_path, with_step(30) + [replace(p, value=3 * p.value) for p in with_step(40, environment="e2")])
    refresh(tmp_path, ["e1", "e2"])
    assert [(each.environment, each.commit) for each in findings(tmp_path)] == [("e1", "commit30"), ("e2", "commit40")]


def test_seconds_are_not_judged_where_a_ratio_is(tmp_path: Path) -> None:
    append(tmp_path, with_step(30) + [replace(p, metric=RATIO_METRIC, unit="ratio") for p in with_step(35)])
    refresh(tmp_path, ["e1"])
    assert [each.commit for each in findings(tmp_path)] == ["commit35"]


def test_a_count_is_told_at_once(tmp_path: Path) -> None:
    counts = [replace(p, metric="FLOPs", unit=COUNT_UNIT, value=100.0 + (i > 4)) for i, p in enumerate(with_step(9, 6))]
    append(tmp_path, counts)
    refresh(tmp_path, ["e1"])
    assert [(each.commit, each.metric) for each in findings(tmp_path)] == [("commit5", "FLOPs")]


def test_what_is_accepted_is_no_longer_open_and_stays_so(tmp_path: Path) -> None:
    append(tmp_path, with_step(30) + with_step(30, case="linear"))
    refresh(tmp_path, ["e1"])
    (told,) = accept(tmp_path, "commit30", "softmax is exact now", case="softmax")
    assert not told.open and told.accepted == "softmax is exact now"
    refresh(tmp_path, ["e1"])
    assert {each.case: each.open for each in findings(tmp_path)} == {"softmax": False, "linear": True}


def recorded(folder: Path, values: "np.ndarray", **changes: str) -> None:
    append(
        folder, [replace(POINT, commit=f"c{i}", time=float(i), value=float(v), **changes) for i, v in enumerate(values)]
    )
    refresh(folder, ["e1"])


def told(folder: Path) -> list[tuple[str, str, str]]:
    return [(each.kind, each.commit, each.accepted) for each in findings(folder)]


def test_a_drift_that_is_accepted_stays_so_when_more_is_recorded(tmp_path: Path) -> None:
    values = 0.002 * np.linspace(1, 1.2, 90) * np.exp(np.random.default_rng(0).normal(0, 0.01, 90))
    recorded(tmp_path, values[:80])
    assert told(tmp_path) == [("drift", "c79", "")]
    accept(tmp_path, "c79", "known")
    for count in (81, 90):
        recorded(tmp_path, values[:count])
        assert told(tmp_path) == [("drift", f"c{count - 1}", "known")]


def test_a_step_that_is_accepted_stays_so_when_its_place_is_estimated_anew(tmp_path: Path) -> None:
    moved = 0
    for seed in range(60):
        folder = tmp_path / str(seed)
        values = 0.002 * np.exp(np.random.default_rng(seed).normal(0, 0.03, 60))
        values[40:] *= 1.1
        recorded(folder, values[:46])
        if [kind for kind, *_ in told(folder)] != ["step"]:
            continue
        ((_, commit, _),) = told(folder)
        accept(folder, commit, "known")
        recorded(folder, values)
        if [kind for kind, *_ in told(folder)] == ["step"]:
            ((_, later, reason),) = told(folder)
            assert reason == "known"
            moved += later != commit
    assert moved, "none was estimated at another place: this shows nothing"


def test_an_acceptance_is_of_one_change_of_its_metric_and_of_no_other(tmp_path: Path) -> None:
    values = 0.002 * np.exp(np.random.default_rng(0).normal(0, 0.002, 60))
    values[30:] *= 1.2
    recorded(tmp_path, values)
    recorded(tmp_path, values, metric="other")
    accept(tmp_path, "c30", "known")
    again = values.copy()
    again[34:] *= 1.3  # another one, four points later
    recorded(tmp_path, again, metric="other")
    assert told(tmp_path) == [("step", "c30", "known"), ("step", "c30", "known"), ("step", "c34", "")]
    values[28:] /= 1.5  # the other way
    recorded(tmp_path, values)
    assert [reason for kind, _, reason in told(tmp_path)[:1]] == [""]


def test_a_count_that_changes_at_the_next_commit_too_is_not_accepted_with_the_first(tmp_path: Path) -> None:
    counts = np.array([100.0] * 5 + [101.0, 110.0])
    recorded(tmp_path, counts, metric="FLOPs", unit=COUNT_UNIT)
    accept(tmp_path, "c5", "known")
    assert told(tmp_path) == [("step", "c5", "known"), ("step", "c6", "")]
    # where the first is no change any more, its acceptance is not the other's
    recorded(tmp_path, np.array([100.0] * 6 + [110.0]), metric="FLOPs", unit=COUNT_UNIT)
    assert told(tmp_path) == [("step", "c6", "")]


@pytest.mark.parametrize(
    "commit, reason, message", [("commit30", " ", "needs a reason"), ("commit7", "why", "unknown commit with a change")]
)
def test_what_cannot_be_accepted_is_one_message(tmp_path: Path, commit: str, reason: str, message: str) -> None:
    append(tmp_path, with_step(30))
    refresh(tmp_path, ["e1"])
    with pytest.raises(UsageError, match=message):
        accept(tmp_path, commit, reason)


CHANGE = {"case": "softmax", "metric": "latency", "environment": "e1", "kind": "step", "before": "a", "commit": "b"}
CHANGE |= {"share": 0.2, "p": 0.01}
DAMAGED = ['[{"a": 1}]', '{"a": 1}', "{}", "[1]", "3", "null", 5000 * "[", ""]


@pytest.mark.parametrize("content", [*DAMAGED, json.dumps([CHANGE | {"share": "0.2"}]), json.dumps([CHANGE, {}])])
def test_changes_of_another_form_are_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "changes").mkdir()
    path = tmp_path / "changes" / "x.json"
    path.write_text(json.dumps([CHANGE]))
    assert [each.commit for each in findings(tmp_path)] == ["b"]
    path.write_text(content)
    with pytest.raises(UsageError, match=r"x\.json cannot be read as a list of changes .*; delete it, and record or"):
        findings(tmp_path)


@pytest.mark.parametrize("content", [*DAMAGED, '[{"commit": "c1"}]', '[{"commit": 1, "reason": "why"}]'])
def test_acknowledgements_of_another_form_are_one_message(tmp_path: Path, content: str) -> None:
    append(tmp_path, with_step(30))
    refresh(tmp_path, ["e1"])
    (tmp_path / "accepted").mkdir()
    (tmp_path / "accepted" / "x.json").write_text(content)
    with pytest.raises(UsageError, match=r"x\.json cannot be read as a list of acknowledgements .*; delete it"):
        findings(tmp_path)


@pytest.mark.parametrize("content", ["[1]", "3", ""])
def test_facts_of_another_form_are_one_message(tmp_path: Path, content: str) -> None:
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments" / "x.json").write_text(content)
    with pytest.raises(UsageError, match=r"x\.json cannot be read as the facts of an environment .*; delete it"):
        environments(tmp_path)
