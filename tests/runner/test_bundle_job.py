"""The job of a bundle: a control before and after timings, whose times and names stand in the store."""

from dataclasses import replace
from pathlib import Path

import pytest

from cab.contracts.messages import LawsAnswer
from cab.planning.plan import on_this_machine, plan
from cab.runner import bundle_work, verdict_cache
from cab.runner.bundle_job import _needs, run_bundle
from cab.runner.bundles import Bundle, read_done, write_bundle
from cab.runner.control_case import control_case
from cab.runner.supervisor import Options
from cab.store import controls
from cab.store.store import Store
from cab.store.table import table
from tests.runner.example_runs import FAST

CONTROL = control_case("cpu", 1)


def bundle(folder: Path, *words: str) -> Bundle:
    measurements = plan([*FAST, "mechanism=none", "seq_len=16", *words]).measurements
    verdicts = {verdict_cache.key(each.case): LawsAnswer([], {}, 1) for each in measurements}
    made = Bundle(3, "run", measurements, str(folder / "results"), str(folder), Options(folder), verdicts=verdicts)
    write_bundle(folder, made)
    return made


def test_the_control_is_a_case_that_can_be_asked_for() -> None:
    words = ["mechanism=softmax", "task=speed", "seq_len=256", "batch=1", "heads=4", "dim=64", "meters=[latency]"]
    (unlimited,) = plan(words).cases
    (limited,) = plan([*words, "threads=2"]).cases
    assert control_case("cpu", None) == replace(unlimited, params={})  # its usual ones
    assert control_case("cpu", 2) == replace(limited, params={})


def test_the_fork_server_prepares_what_the_bundle_needs(elsewhere: Path) -> None:
    bundle(elsewhere, "meters=[latency]")
    assert _needs(elsewhere, 3) == {"few": True, "eager": ["none", "softmax"]}
    bundle(elsewhere, "meters=[latency]", "seed=range(6)")
    assert _needs(elsewhere, 3)["few"] is False  # thirty processes
    bundle(elsewhere, "meters=[latency_ratio]", "baseline=softmax", "seed=range(3)")
    assert _needs(elsewhere, 3)["few"] is False  # fifteen, or thirty
    for words in (["meters=[latency]", "backend=compile"], ["meters=[latency,flops]"]):
        bundle(elsewhere, *words)
        assert "eager" not in _needs(elsewhere, 3)
    write_bundle(elsewhere, replace(bundle(elsewhere, "meters=[latency]"), laws_only=True))
    assert _needs(elsewhere, 3) == {"few": False}
    (elsewhere / "3.bundle").write_text("{")
    assert _needs(elsewhere, 3) == {}


@pytest.mark.timeout(120)
def test_timings_have_a_control_before_and_after(elsewhere: Path) -> None:
    made = bundle(elsewhere, "meters=[latency]")
    run_bundle(elsewhere, 3)
    done = read_done(elsewhere, 3)
    assert done is not None and not done.error
    (control,) = controls.load(elsewhere / "results")
    assert control.bundle == made.name and control.before and control.after and control.drift
    rows = table(Store(elsewhere / "results"))
    assert list(rows["status"]) == ["ok"] and list(rows["control_drift"]) == [control.drift]
    entry = Store(elsewhere / "results").read(on_this_machine(made.measurements[0]).file)
    assert entry is not None and control.environment == entry.environment
    assert {process.details["bundle"] for process in entry.processes} == {"run-3"}


@pytest.mark.timeout(120)
def test_counts_have_none_and_a_control_that_cannot_be_timed_costs_nothing_else(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(elsewhere, "meters=[flops]")
    run_bundle(elsewhere, 3)
    assert not controls.load(elsewhere / "results")
    monkeypatch.setattr(
        bundle_work, "control_case", lambda device, threads: replace(CONTROL, mechanism="./not_there.py:Mine")
    )
    bundle(elsewhere, "meters=[latency]")
    run_bundle(elsewhere, 3)
    (control,) = controls.load(elsewhere / "results")
    rows = table(Store(elsewhere / "results"))
    assert control.before is control.after is None and rows["control_drift"].isna().all()
    assert set(rows["status"]) == {"ok"}
