"""Real pairs of worker processes, on this checkout and on mechanisms in files."""

import os
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import pytest
import yaml

from cab.errors import UsageError
from cab.tracking.cases import DEFAULT, reference_kernel, tracked_cases
from cab.tracking.lockstep import _in_turn, measure_pair
from cab.tracking.sides import NoData, Side, installed_side

MECHANISM = """
import time
from cab import Mechanism

class Planted(Mechanism):
    patterns = {{"NS": "native", "CS": "native"}}
    paper = "none"

    def attend(self, q, k, v, key_mask=None, query_mask=None, scale=1.0):
        {body}
        return q + k + v

    def reference(self, q, k, v, key_mask=None, query_mask=None):
        return q + k + v
"""


@pytest.fixture(scope="module")
def side() -> Side:
    return installed_side()


def planted(folder: Path, body: str) -> dict[str, object]:
    file = folder / "planted.py"
    file.write_text(MECHANISM.format(body=body))
    return tracked_cases([f"mechanism={file}:Planted", "pattern=NS", "seq_len=64", "batch=1"])[0].question


def test_a_pair_gives_samples_of_both_sides_their_ratio_and_equal_counts(side: Side, tmp_path: Path) -> None:
    case = tracked_cases(["mechanism=linear", "pattern=CS", "seq_len=64", "batch=1", "pass=forward_backward"])[0]
    pair = measure_pair(side, side, case.question, tmp_path, True)
    assert len(pair["base"]) == len(pair["head"]) >= 6 and min(pair["base"]) > 0
    assert pair["counts"]["base"] == pair["counts"]["head"]
    assert pair["counts"]["base"]["FLOPs"] > 0 and pair["counts"]["base"]["peak allocated bytes"] > 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot choose its cores here")
def test_both_sides_are_sampled_on_the_same_core_with_one_thread_alone(side: Side, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    case = planted(tmp_path, f"import os; print(os.getpid(), *os.sched_getaffinity(0), file=open({str(seen)!r}, 'a'))")
    for threads, kept in ((1, 1), (2, len(os.sched_getaffinity(0)))):
        seen.write_text("")
        measure_pair(side, side, {**case, "threads": threads}, tmp_path, False)
        last = {line.split()[0]: line.split()[1:] for line in seen.read_text().splitlines()}
        of_base, of_head = last.values()
        assert of_base == of_head and len(of_base) == kept


def test_the_reference_kernel_needs_nothing_of_the_package(side: Side, tmp_path: Path) -> None:
    pair = measure_pair(side, side, reference_kernel().question, tmp_path, True)
    assert "parameters" not in pair["counts"]["base"] and abs(pair["log_ratio"]) < 1


def test_what_differs_from_its_reference_has_no_data(side: Side, tmp_path: Path) -> None:
    case = planted(tmp_path, "q = q * 1.5")
    with pytest.raises(NoData, match="base: off from its reference by"):
        measure_pair(side, side, case, tmp_path, True)


def test_a_worker_that_dies_says_how(side: Side, tmp_path: Path) -> None:
    case = planted(tmp_path, "import os; os._exit(7)")
    with pytest.raises(NoData, match="base: its process ended with 7"):
        measure_pair(side, side, case, tmp_path, True)


def test_what_a_side_does_not_know_has_no_data_with_the_name_of_the_side(side: Side, tmp_path: Path) -> None:
    case = tracked_cases(["mechanism=linear", "pattern=CS", "seq_len=64"])[0].question
    with pytest.raises(NoData, match="^base: UsageError: unknown mechanism 'nosuch'[.]?$"):
        measure_pair(side, side, {**case, "mechanism": "nosuch"}, tmp_path, True)
    with pytest.raises(NoData, match="head: /no/python does not start"):
        measure_pair(side, Side("x", "x", python="/no/python"), case, tmp_path, True)
    with pytest.raises(NoData, match="base: torch is not there"):
        measure_pair(Side("x", "x", unbuilt="torch is not there"), side, case, tmp_path, True)


def test_cases_that_public_names_cannot_build_are_refused() -> None:
    for override, why in (
        ("level=layer", "level=layer: cab track measures level=attend: layers and models have no public name"),
        ("level=model", "level=model: cab track measures level=attend"),
        ("pass=backward", "pass=backward: cab track measures pass=forward or forward_backward or decode$"),
        ("padding=0.5", "padding"),
        ("device=mps", "device=mps: cab track measures device=cpu or cuda$"),
    ):
        with pytest.raises(UsageError, match=why):
            tracked_cases(["mechanism=linear", override])


def test_the_grid_has_some_twenty_cases_each_with_one_thread() -> None:
    cases = tracked_cases([])
    assert 18 <= len(cases) <= 24 and len({case.id for case in cases}) == len(cases)
    assert {case.question["threads"] for case in cases} == {1}


def test_threads_are_those_of_the_grid_or_of_the_user_else_one(tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    block = ["task=speed", "pattern=CS", "seq_len=64", "batch=1"]
    blocks = [[*block, "mechanism=linear", "threads=4"], [*block, "mechanism=softmax"]]
    grid.write_text(yaml.safe_dump({"blocks": blocks}))
    for user, threads in (([], [4, 1]), (["threads=2"], [2, 2])):
        assert [case.question["threads"] for case in tracked_cases([f"grid={grid}", *user])] == threads
    assert tracked_cases(["mechanism=linear", "pattern=CS"])[0].question["threads"] == 1


def test_what_is_asked_is_not_changed() -> None:
    tracked_cases([])
    assert DEFAULT == ["grid=track"]
    overrides = ["mechanism=linear", "pattern=CS"]
    tracked_cases(overrides)
    assert overrides == ["mechanism=linear", "pattern=CS"]


def test_what_equals_the_constructors_default_is_left_to_the_side() -> None:
    usual = tracked_cases(["mechanism=local", "pattern=NS"])[0].question
    other = tracked_cases(["mechanism=local", "pattern=NS", "mechanism.window=16"])[0].question
    assert "window" not in usual["options"] and other["options"]["window"] == 16


class Clock:
    """A worker whose samples are given, and on a GPU the clock rate of each."""

    def __init__(self, samples: Sequence[float], rates: Sequence[float] = ()) -> None:
        self.samples, self.rates, self.taken = samples, rates, 0

    def ask(self, request: dict[str, object]) -> object:
        if request["do"] == "calibrate":
            return {"iterations": 1, "seconds": 0.1}
        self.taken += 1
        rate = self.rates[self.taken - 1] if self.rates else 0.0
        return {"seconds": self.samples[self.taken - 1], "clock": rate}


def in_turn(base: Clock, head: Clock) -> dict[str, Any]:
    return _in_turn({"base": base, "head": head})  # type: ignore[dict-item]


def test_samples_over_which_the_clock_jumped_are_left_out() -> None:
    assert in_turn(Clock([1.0, 1.0, -5.0] + [1.0] * 20), Clock([2.0, 0.0] + [2.0] * 20))["log_ratio"] == log(2)
    with pytest.raises(NoData, match="the clock jumped"):
        in_turn(Clock([-1.0] * 30), Clock([1.0] * 30))


def test_what_comes_first_in_a_pair_gains_nothing() -> None:
    # the same code; a sample after one of its own side takes a tenth less, because its data are in the caches
    taken: list[str] = []

    class Warm:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, request: dict[str, object]) -> object:
            if request["do"] == "calibrate":
                return {"iterations": 1, "seconds": 0.01}
            taken.append(self.name)
            return {"seconds": 0.9 if taken[-2:] == [self.name] * 2 else 1.0, "clock": 0.0}

    pair = _in_turn({"base": Warm("base"), "head": Warm("head")})  # type: ignore[dict-item]
    assert pair["log_ratio"] == pytest.approx(0, abs=1e-12)
    assert pair["flipped"] == [True, False] * 10
    assert all((head == 0.9) == flipped for head, flipped in zip(pair["head"], pair["flipped"], strict=True))


def test_on_the_cpu_nothing_is_set_apart_and_no_clock_is_kept() -> None:
    pair = in_turn(Clock([1.0] * 30), Clock([2.0] * 30))
    assert len(pair["base"]) == 6 and not {"clocks", "throttled"} & set(pair)


def test_samples_at_a_throttled_clock_are_set_apart_with_their_partner_and_others_take_their_place() -> None:
    # the head is twice as slow; where one side was throttled it looks otherwise
    base = Clock([1.0, 9.0, 1.0, 1.0] + [1.0] * 20, [1500, 900, 1500, 1500] + [1450] * 20)
    head = Clock([2.0, 2.0, 9.0, 2.0] + [2.0] * 20, [1500, 1500, 1000, 1500] + [1500] * 20)
    pair = in_turn(base, head)
    assert pair["base"] == [1.0] * 6 and pair["head"] == [2.0] * 6 and pair["log_ratio"] == log(2)
    assert (
        pair["clocks"] == [900, 1500] and pair["throttled"] == 2 and base.taken == head.taken == 9
    )  # the first pair is none


def test_a_gpu_that_is_throttled_nearly_always_has_no_data_and_says_at_which_clock() -> None:
    always_else = [1500.0] * 2 + [900.0] * 40
    with pytest.raises(NoData, match="ran at 900 to 1500 MHz, and in only 1 of 12 pairs of samples at 90%"):
        in_turn(Clock([1.0] * 40, always_else), Clock([1.0] * 40, always_else))
