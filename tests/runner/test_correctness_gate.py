"""The laws are asked once, and a verdict is kept only for the source that it is of."""

from pathlib import Path

import pytest

from cab.contracts.messages import LawsAnswer
from cab.planning.measurement import Measurement
from cab.planning.plan import plan
from cab.runner import verdict_cache
from cab.runner.correctness_gate import CHANGED, Laws
from cab.runner.outcomes import Outcome
from tests.runner.example_runs import ATTEND, FAST, users_file

HOLD = Outcome("ok", answer=LawsAnswer([], {}, 1))


def test_no_verdict_is_kept_for_a_source_that_changed_meanwhile(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    kept: list[str] = []
    monkeypatch.setattr(verdict_cache, "keep", lambda key, verdict: kept.append(key))
    name = users_file(elsewhere, f"{ATTEND}    return v\n")
    (measurement,) = plan([*FAST, f"mechanism={name}", "seq_len=16", "meters=[parameters]"]).measurements

    def edited_meanwhile(measurement: Measurement) -> Outcome:
        users_file(elsewhere, f"{ATTEND}    return v.flip(2)\n")
        return HOLD

    assert Laws().objection(measurement, edited_meanwhile) is CHANGED
    # edited before: a child may have imported it earlier
    assert Laws().objection(measurement, lambda measurement: HOLD) is CHANGED
    assert kept == []
    users_file(elsewhere, f"{ATTEND}    return v\n")
    assert Laws().objection(measurement, lambda measurement: HOLD) is None and len(kept) == 1


def test_laws_that_cannot_be_run_are_not_run_for_every_measurement(elsewhere: Path) -> None:
    runs: list[Measurement] = []

    def endless(measurement: Measurement) -> Outcome:
        runs.append(measurement)
        return Outcome("timeout", "took more than 600 s")

    name = users_file(elsewhere, f"{ATTEND}    return v\n")
    measurements = plan([*FAST, f"mechanism={name}", "seq_len=16,32", "meters=[flops,parameters]"]).measurements
    laws = Laws()
    objections = [laws.objection(measurement, endless) for measurement in measurements]
    assert {objection.status for objection in objections if objection} == {"timeout"} and None not in objections
    assert len(measurements) == 4 and len(runs) == 1


def test_a_broken_law_is_kept_and_named_with_how_many_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAB_CACHE", str(tmp_path))
    (measurement,) = plan([*FAST, "mechanism=none", "seq_len=16", "meters=[parameters]"]).measurements
    broken = Outcome("ok", answer=LawsAnswer(["heads: they mix", "batch: it leaks"], {}, 30))
    for outcome in (broken, HOLD):  # the second finds the first verdict in the cache
        objection = Laws().objection(measurement, lambda measurement, outcome=outcome: outcome)
        assert objection is not None and objection.status == "wrong"
        assert objection.reason == "law heads: they mix (and 1 more: cab check none)"


def test_each_verdict_is_unknown_once_and_known_ones_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    grid = [*FAST, "mechanism=none,mean", "seq_len=16,32", "pattern=NS,CS", "meters=[flops,parameters]"]
    measurements = plan(grid).measurements
    laws = Laws()
    monkeypatch.setattr(verdict_cache, "load", lambda key: None)
    unknown = laws.unknown(measurements)
    assert sorted((each.case.mechanism, each.case.pattern) for each in unknown) == [
        ("mean", "CS"), ("mean", "NS"), ("none", "CS"), ("none", "NS"),
    ]  # fmt: skip
    laws.objection(unknown[0], lambda measurement: HOLD)
    assert len(laws.unknown(measurements)) == 3


def test_a_mechanism_in_all_slots_must_be_lawful_in_every_pattern_of_the_task(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAB_CACHE", str(tmp_path))
    asked = ["task=cab_lstf", "mechanism=linear", "pattern=NC", "meters=[quality]"]
    runs: list[str] = []

    def broken_in_ns(measurement: Measurement) -> Outcome:
        runs.append(measurement.case.pattern)
        return Outcome("ok", answer=LawsAnswer(["heads: they mix"] if runs[-1] == "NS" else [], {}, 30))

    for others, patterns in (("none", ["NC"]), ("same", ["NC", "NS"])):
        (measurement,) = plan([*asked, f"task.others={others}"], tmp_path).measurements
        runs.clear()
        monkeypatch.setattr(verdict_cache, "load", lambda key: None)
        assert sorted(each.case.pattern for each in Laws().unknown([measurement])) == patterns
        objection = Laws().objection(measurement, broken_in_ns)
        assert runs == patterns
        assert (objection is None) == (others == "none")


def test_a_verdict_and_a_number_are_of_the_file_that_a_hyperparameter_names(elsewhere: Path) -> None:
    def asked() -> tuple[str, str]:
        rule = ["mechanism=masked", "mechanism.mask=./mine.py:past", "seq_len=16", "meters=[flops]"]
        (measurement,) = plan([*FAST, *rule]).measurements
        return measurement.source, verdict_cache.key(measurement.case)

    (elsewhere / "mine.py").write_text("def past(i, j):\n    return j <= i\n")
    before = asked()
    (elsewhere / "mine.py").write_text("def past(i, j):\n    return j < i + 2\n")
    after = asked()
    assert before[0] != after[0] and before[1] != after[1]
