"""The procedure of a comparison, with measurements that are simulated: which pairs are taken, and what is kept."""

import errno
from collections import Counter
from collections.abc import Mapping
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cab.errors import UsageError
from cab.tracking import state
from cab.tracking.cases import TrackedCase, with_instructions
from cab.tracking.compare import Settings, compare, forget
from cab.tracking.lockstep import case_on
from cab.tracking.sides import NoData, Side, changed

BASE, HEAD = Side("base", "one"), Side("head", "two")
COUNTS = {"FLOPs": 100.0, "bytes moved": 1000.0}
CASES = [TrackedCase(f"case {i}", {"mechanism": f"m{i}", "options": {}, "params": []}) for i in range(4)]


class Machine:
    """Simulates pairs: `slower` says by how much the head of a mechanism is, `fails` why it cannot be measured."""

    def __init__(self, spread: float = 0.01) -> None:
        self.random = np.random.default_rng(0)
        self.spread = spread
        self.slower: dict[str, float] = {}
        self.fails: dict[str, str] = {}
        self.head_counts: dict[str, dict[str, float]] = {}
        self.control_moves = 0.0
        self.calls: list[tuple[str, bool, bool]] = []

    def __call__(self, base: Side, head: Side, case: Mapping[str, Any], caches: Path, first: bool) -> dict[str, Any]:
        name, same = case["mechanism"], base == head
        self.calls.append((name, same, first))
        if name in self.fails:
            raise NoData(self.fails[name])
        change = self.control_moves if same else self.slower.get(name, 0.0)
        ratio = log(1 + change) + self.spread * self.random.standard_normal()
        pair = {"base": [1e-3] * 6, "head": [1e-3 * exp(ratio)] * 6, "log_ratio": ratio, "iterations": 4}
        counts = {"base": COUNTS, "head": COUNTS if same else self.head_counts.get(name, COUNTS)}
        return pair | ({"counts": counts} if first else {})


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_the_same_code_is_never_slower(machine: Machine, tmp_path: Path) -> None:
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert {each.verdict for each in done.verdicts.values()} <= {"same", "unstable"}
    assert done.exit_code == 0 and not done.counts


def test_a_slowdown_is_named_and_only_it_gets_all_pairs(machine: Machine, tmp_path: Path) -> None:
    machine.slower = {"m2": 0.08}
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert [name for name, each in done.verdicts.items() if each.verdict == "slower"] == ["case 2"]
    assert done.verdicts["case 2"].pairs == 18
    assert done.verdicts["case 2"].effect and 0.06 < done.verdicts["case 2"].effect.estimate < 0.10
    assert done.exit_code == 1
    taken = Counter(name for name, same, _ in machine.calls if not same)
    assert taken["m2"] == 18 and min(taken.values()) == 6


def test_settled_cases_all_get_all_pairs(machine: Machine, tmp_path: Path) -> None:
    done = compare(BASE, HEAD, CASES, Settings(settle=True), tmp_path, measure=machine)
    assert {each.pairs for each in done.verdicts.values()} == {18}
    assert {each.verdict for each in done.verdicts.values()} == {"same"}


def test_a_control_that_moves_makes_the_run_unproven(machine: Machine, tmp_path: Path) -> None:
    machine.slower, machine.control_moves = {"m2": 0.2}, 0.1
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert done.exit_code == 4 and len(done.flagged) == 2


def test_the_reference_kernel_runs_on_both_sides(machine: Machine, tmp_path: Path) -> None:
    machine.slower = {"reference kernel": 0.2}  # as where the sides have other versions of PyTorch
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert done.exit_code == 4 and done.flagged == ["reference kernel (control)"]


def test_a_count_that_grows_by_one_per_cent_is_a_regression_whatever_the_controls_say(
    machine: Machine, tmp_path: Path
) -> None:
    machine.head_counts, machine.control_moves = {"m1": {**COUNTS, "bytes moved": 1010.0}}, 0.1
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert [(name, change.name) for name, change in done.regressed_counts] == [("case 1", "bytes moved")]
    assert done.exit_code == 1


def test_a_count_that_shrinks_is_shown_and_is_no_regression(machine: Machine, tmp_path: Path) -> None:
    machine.head_counts = {"m1": {**COUNTS, "FLOPs": 50.0}}
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert done.counts["case 1"][0].share == -0.5 and done.exit_code == 0


def test_a_case_that_one_side_lacks_has_no_data_and_the_others_go_on(machine: Machine, tmp_path: Path) -> None:
    machine.fails = {"m0": "base: unknown mechanism 'm0'"}
    done = compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert done.verdicts["case 0"].reason == "base: unknown mechanism 'm0'"
    assert done.verdicts["case 1"].verdict in ("same", "unstable") and done.exit_code == 0
    machine.fails = {f"m{i}": "gone" for i in range(4)}
    machine.calls.clear()
    assert compare(BASE, HEAD, CASES, Settings(), tmp_path / "other", measure=machine).exit_code == 3
    assert len(machine.calls) <= 7, "where no case is left, no control is measured any more"


def test_killed_anywhere_the_same_command_goes_on(tmp_path: Path) -> None:
    def run(machine: Any) -> Any:
        return compare(BASE, HEAD, CASES, Settings(controls=1), tmp_path, measure=machine)

    def steady() -> Machine:
        """Return a machine on which every case needs the same number of pairs in any order."""
        machine = Machine(spread=0.0)
        machine.slower = {"m2": 0.08}
        return machine

    uninterrupted = steady()
    run(uninterrupted)
    total = len(uninterrupted.calls)
    forget(BASE, HEAD, CASES, tmp_path)
    done_before = 0
    for stop in (1, 3, 7):
        machine, calls = steady(), 0

        def killed(*arguments: Any, machine: Machine = machine, stop: int = stop) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            return machine(*arguments)

        with pytest.raises(KeyboardInterrupt):
            run(killed)
        done_before += stop
    last = steady()
    run(last)
    assert len(last.calls) == total - done_before
    again = steady()
    run(again)
    assert not again.calls, "what is measured is not measured again"


def test_a_finished_comparison_is_measured_anew(tmp_path: Path) -> None:
    moved, quiet = Machine(), Machine()
    moved.control_moves = 0.1
    assert compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=moved).exit_code == 4
    forget(BASE, HEAD, CASES, tmp_path)
    assert compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=quiet).exit_code == 0
    assert len(quiet.calls) >= 6 * len(CASES)


def test_a_comparison_that_ends_leaves_the_pairs_of_one_of_other_cases(machine: Machine, tmp_path: Path) -> None:
    compare(BASE, HEAD, CASES[:2], Settings(), tmp_path, measure=machine)  # stands for one that was killed
    compare(BASE, HEAD, CASES[1:], Settings(), tmp_path, measure=machine)
    forget(BASE, HEAD, CASES[1:], tmp_path)
    machine.calls.clear()
    compare(BASE, HEAD, CASES[:2], Settings(), tmp_path, measure=machine)
    assert not machine.calls


def test_another_revision_shares_no_pairs(machine: Machine, tmp_path: Path) -> None:
    compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    count = len(machine.calls)
    compare(BASE, Side("head", "three"), CASES, Settings(), tmp_path, measure=machine)
    assert len(machine.calls) >= count + 24


def test_a_damaged_pair_is_measured_again(machine: Machine, tmp_path: Path) -> None:
    compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    damaged = next(tmp_path.rglob("*-00.json"))
    damaged.write_text('{"log_ra')
    machine.calls.clear()
    compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)
    assert len(machine.calls) >= 1


def test_a_full_disk_is_one_message(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state, "write_whole", full)
    with pytest.raises(UsageError, match="No space left on device; the pairs so far are kept"):
        compare(BASE, HEAD, CASES, Settings(), tmp_path, measure=machine)


def test_against_another_mechanism_drops_the_hyper_parameters_of_the_first() -> None:
    case = {"mechanism": "local", "params": ["window"], "options": {"window": 8, "dim": 4, "backend": "eager"}}
    assert case_on(changed(HEAD, "mechanism=linear"), case) == {
        "mechanism": "linear", "params": ["window"], "options": {"dim": 4, "backend": "eager"}
    }  # fmt: skip
    assert case_on(changed(HEAD, "backend=sdpa"), case)["options"]["backend"] == "sdpa"
    assert case["options"]["backend"] == "eager"


def test_instructions_are_counted_of_cases_and_not_of_controls(tmp_path: Path) -> None:
    asked = dict[bool, set[bool]]()

    def measure(base: Side, head: Side, case: Mapping[str, Any], caches: Path, first: bool) -> dict[str, Any]:
        asked.setdefault(base == head, set()).add("instructions" in case)
        counts = {"base": {"instructions": 1000.0}, "head": {"instructions": 1010.0}}
        return {"base": [1.0], "head": [1.0], "log_ratio": 0.0, "counts": counts}

    case = TrackedCase("one", {"mechanism": "one", "instructions": True})
    done = compare(BASE, HEAD, [case], Settings(), tmp_path, measure=measure)
    assert asked == {False: {True, False}, True: {False}}  # the reference kernel runs on both sides without
    assert done.exit_code == 1 and done.regressed_counts[0][1].name == "instructions"


def test_without_valgrind_instructions_are_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UsageError, match="--instructions: valgrind is not installed"):
        with_instructions(TrackedCase("one", {"mechanism": "one"}))


def test_on_a_gpu_clocks_and_throttled_samples_of_all_pairs_are_kept(machine: Machine, tmp_path: Path) -> None:
    asked = list[str]()

    def measure(base: Side, head: Side, case: Mapping[str, Any], caches: Path, first: bool) -> dict[str, Any]:
        asked.append(case["device"])
        number = len(asked)
        return machine(base, head, case, caches, first) | {"clocks": [1000.0 + number, 2000.0], "throttled": number % 2}

    case = TrackedCase("one", {"mechanism": "one", "options": {}, "params": [], "device": "cuda"})
    done = compare(BASE, HEAD, [case], Settings(), tmp_path, measure=measure)
    assert set(asked) == {"cuda"}, "the reference kernel too"
    assert done.clocks == (1001.0, 2000.0) and 0 < done.throttled["one"] <= 18
    assert done.environment["device"] == "cuda:0"
