"""Recording: a commit's points, with the ratio to a kernel that drift hits alike; resumed when killed."""

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cab.environment import environment_id
from cab.errors import UsageError
from cab.tracking import history
from cab.tracking.cases import TrackedCase
from cab.tracking.findings import RATIO_METRIC, environments, findings, refresh
from cab.tracking.history import Point, append, read
from cab.tracking.recording import record
from cab.tracking.sides import NoData, Side
from cab.tracking.worker import REFERENCE_KERNEL

VERSIONS = {"python": "3.11.0", "torch": "1.0"}  # not those of this process
CASES = [TrackedCase(name, {"mechanism": name}) for name in ("one", "two")]


@pytest.fixture
def repository(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one commit and an edit that is not committed."""
    monkeypatch.setenv("CAB_CACHE", str(elsewhere / "cache"))
    root = elsewhere / "checkout"
    (root / "cab").mkdir(parents=True)
    (root / "cab" / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text("[project]\nname='x'\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    (root / "cab" / "__init__.py").write_text("edited")
    return root


class Measured:
    """Stands for pairs of processes; `drift` makes everything slower from call to call."""

    def __init__(self, broken: str = "") -> None:
        self.calls, self.broken, self.killed_at = list[str](), broken, 0

    def __call__(self, base: Side, head: Side, case: Mapping[str, Any], caches: Path, first: bool) -> dict[str, Any]:
        assert base.changes == {"mechanism": REFERENCE_KERNEL} and not head.changes
        assert (Path(head.sources or "") / "cab" / "__init__.py").read_text() == ""
        if len(self.calls) == self.killed_at > 0:
            self.killed_at = 0
            raise KeyboardInterrupt
        self.calls.append(case["mechanism"])
        if case["mechanism"] == self.broken:
            raise NoData("head: wrong")
        versions = {"base": VERSIONS, "head": VERSIONS}
        counts = {"counts": {"base": {}, "head": {"FLOPs": 100.0}}, "versions": versions} if first else {}
        return {"base": [0.001], "head": [0.002 * len(self.calls)], "log_ratio": 0.0, **counts}


def recorded(repository: Path, measure: Measured, folder: str = "history") -> tuple[str, list[Point], dict[str, str]]:
    results = repository.parent / "results"
    return record("HEAD", repository, CASES, 3, True, repository.parent / folder, results, lambda line: None, measure)


def test_a_commit_becomes_points(repository: Path) -> None:
    measure = Measured()
    commit, points, failures = recorded(repository, measure)
    assert {(p.case, p.metric) for p in points} == {
        (case, metric) for case in ("one", "two") for metric in ("latency", RATIO_METRIC, "FLOPs")
    }
    assert {p.commit for p in points} == {commit} and not failures and len(measure.calls) == 6
    assert [p.value for p in points if p.case == "one"] == [0.006, 1.0, 100.0]  # rounds: calls 1, 3 and 5
    folder = repository.parent / "history"
    assert read(folder) == points and read(folder, commit) == points and not read(folder, commit[:12])
    assert list(environments(folder)) == [points[0].environment]


def test_a_commit_whose_points_stand_in_the_history_is_measured_anew(repository: Path) -> None:
    measure = Measured()
    _, first, _ = recorded(repository, measure)
    _, second, _ = recorded(repository, measure)
    assert len(measure.calls) == 12 and read(repository.parent / "history") == second
    assert {p.value for p in first} != {p.value for p in second}


def test_what_did_not_reach_the_history_is_not_measured_again(repository: Path) -> None:
    measure = Measured()
    _, first, _ = recorded(repository, measure)
    # a push was refused: the history is that of another runner now, which has recorded the commit too
    append(repository.parent / "pushed", [replace(point, value=7.0, recorded=1.0) for point in first])
    _, again, _ = recorded(repository, measure, "pushed")
    assert len(measure.calls) == 6 and [p.value for p in again] == [p.value for p in first]


def test_a_second_measurement_that_is_killed_goes_on_too(repository: Path) -> None:
    measure = Measured()
    recorded(repository, measure)
    measure.killed_at = 9
    with pytest.raises(KeyboardInterrupt):
        recorded(repository, measure)
    recorded(repository, measure)
    assert len(measure.calls) == 12


def test_the_environment_is_that_of_the_python_that_was_measured(repository: Path) -> None:
    _, points, _ = recorded(repository, Measured())
    (facts,) = environments(repository.parent / "history").values()
    assert {name: facts[name] for name in VERSIONS} == VERSIONS
    assert {point.environment for point in points} == {environment_id(facts)}


def test_a_case_without_data_is_named_and_the_others_are_kept(repository: Path) -> None:
    _, points, failures = recorded(repository, Measured("one"))
    assert failures == {"one": "head: wrong"} and {p.case for p in points} == {"two"}


def test_nothing_measured_is_one_message(repository: Path) -> None:
    with pytest.raises(UsageError, match="'HEAD~7' is no git revision"):
        record("HEAD~7", repository, CASES, 1, True, repository, repository, print, Measured())
    with pytest.raises(UsageError, match="nothing could be measured at .*: one: head: wrong"):
        record("HEAD", repository, CASES[:1], 1, True, repository, repository, print, Measured("one"))


def test_a_history_that_cannot_be_read_is_said_before_anything_is_measured(repository: Path) -> None:
    for kind in ("changes", "accepted", "environments"):
        path, measure = repository.parent / kind / kind / "x.json", Measured()
        path.parent.mkdir(parents=True)
        path.write_text('[{"a": 1}]')
        with pytest.raises(UsageError, match=r"x\.json cannot be read as"):
            recorded(repository, measure, kind)
        assert not measure.calls


def test_what_is_recorded_again_after_a_clock_was_set_back_counts(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Measured()
    recorded(repository, measure)
    monkeypatch.setattr(history.time, "time", lambda: 10.0)
    _, second, _ = recorded(repository, measure)
    assert read(repository.parent / "history") == second


def test_on_a_gpu_its_clock_is_recorded_and_is_no_change(repository: Path) -> None:
    def measure(*arguments: Any) -> dict[str, Any]:
        return Measured()(*arguments) | {"clocks": [1200.0, 1500.0], "throttled": 1}

    results, folder = repository.parent / "results", repository.parent / "history"
    case = TrackedCase("one", {"mechanism": "one", "device": "cuda"})
    _, points, _ = record("HEAD", repository, [case], 1, True, folder, results, lambda line: None, measure)
    assert {(p.metric, p.value) for p in points if p.unit == "MHz"} == {
        ("GPU clock, lowest", 1200.0), ("GPU clock, highest", 1500.0)
    }  # fmt: skip
    (facts,) = environments(folder).values()
    assert facts["device"] == "cuda:0"
    clocks = [
        replace(p, commit=f"c{i}", time=i, value=p.value * (2 if i > 20 else 1)) for i in range(40) for p in points
    ]
    append(folder, clocks)
    refresh(folder, {points[0].environment})
    assert {each.metric for each in findings(folder)} == {"FLOPs", RATIO_METRIC}
