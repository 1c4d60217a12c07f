"""The longest length within a limit: searches over costs that are known."""

from dataclasses import replace
from typing import Any

import pytest

from cab import UsageError
from cab.meters.frontier import RESOLUTION, Frontier
from cab.planning.plan import plan
from tests.meters.test_meters import CASE, workload

MEMORY, TIME = "longest_in_memory", "longest_in_time"


def asked(n: int = 65536, **limits: Any) -> Any:
    return replace(CASE, n=n, m=n, settings={"padding": 0.5, **limits})


class Machine:
    """Runs up to a length; takes a millisecond a token."""

    def __init__(self, longest: int, other: tuple[str, str] | None = None) -> None:
        self.longest, self.other = longest, other
        self.seen: list[Any] = []

    def __call__(self, case: Any, pinned: bool) -> tuple[str, str, Any]:
        self.seen.append(case)
        assert ("latency_limit" in case.settings) == pinned and len(case.settings) == 2
        if self.other:
            return (*self.other, None)
        if case.n > self.longest:
            return "oom", "can't allocate", None
        return "ok", "", {"probe": {"samples": [case.n * 1e-3 * f for f in (0.9, 1.0, 5.0)]}}


@pytest.mark.parametrize("longest", [16, 17, 100, 1023, 1024, 3000, 30000, 65535])
def test_the_bracket_holds_the_frontier_and_is_narrow(longest: int) -> None:
    machine = Machine(longest)
    found = Frontier().search(asked(memory_limit=1), machine)
    reading = Frontier().reduce(MEMORY, [found[MEMORY]])
    assert reading.ci_low == reading.value <= longest < reading.ci_high
    assert reading.ci_high <= max(RESOLUTION * reading.value, reading.value + 16) and "oom" in reading.stop_reason
    assert reading.converged == (reading.ci_high <= RESOLUTION * reading.value)
    assert reading.count == len(machine.seen) == len({case.n for case in machine.seen}) <= 20


def test_what_fits_at_the_case_s_length_has_no_upper_bound() -> None:
    reading = Frontier().reduce(MEMORY, [Frontier().search(asked(5000, memory_limit=1), Machine(10**9))[MEMORY]])
    assert (reading.value, reading.ci_high, reading.converged) == (5000, None, False)
    assert "longest that was asked for" in reading.stop_reason


def test_where_nothing_fits_the_answer_is_nothing() -> None:
    reading = Frontier().reduce(MEMORY, [Frontier().search(asked(memory_limit=1), Machine(3))[MEMORY]])
    assert (reading.value, reading.ci_high, reading.converged) == (0, 16, False)


def test_in_time_the_median_decides_and_running_out_of_memory_is_too_long() -> None:
    found = Frontier().search(asked(latency_limit=4.0), Machine(10**9))[TIME]
    assert 4000 / RESOLUTION <= found["samples"][0] <= 4000 and found["why"].endswith(" s")
    found = Frontier().search(asked(latency_limit=4.0), Machine(2000))[TIME]
    assert 2000 / RESOLUTION <= found["samples"][0] <= 2000 and found["why"] == "oom"


def test_both_limits_are_two_searches_and_m_follows_n() -> None:
    machine = Machine(3000)
    found = Frontier().search(replace(asked(memory_limit=1, latency_limit=1.0), m=16384), machine)
    assert set(found) == {MEMORY, TIME}
    assert found[TIME]["samples"][0] <= 1000 < 2000 < found[MEMORY]["samples"][0]
    assert all(case.m == round(case.n / 4) for case in machine.seen)


def test_what_is_neither_ends_the_search_with_its_reason() -> None:
    found = Frontier().search(asked(memory_limit=1), Machine(1, ("wrong", "the output is not finite")))[MEMORY]
    assert found == {"status": "wrong", "reason": "at n=1024: the output is not finite"}
    # a probe for memory that hangs says nothing about memory
    found = Frontier().search(asked(memory_limit=1), Machine(1, ("timeout", "took more than 600 s")))[MEMORY]
    assert found["status"] == "timeout"


def test_a_probe_times_or_runs_a_real_pass() -> None:
    made = workload(settings={"latency_limit": 1.0})
    assert min(Frontier().measure(made, made.case)["probe"]["samples"]) > 0
    made = workload(settings={"memory_limit": 1 << 30})
    assert Frontier().measure(made, made.case) == {"probe": {"samples": []}}


def test_the_limits_are_part_of_the_frontiers_question_and_of_no_others() -> None:
    common = ["mechanism=softmax", "task=speed", "meters=[frontier,memory]", "seq_len=64"]
    items = {item.meter: item for item in plan([*common, "memory_limit=1GiB", "latency_limit=0.5"]).items}
    assert items["frontier"].case.settings == {"memory_limit": 1 << 30, "latency_limit": 0.5}
    assert items["memory"].case.settings == {} and items["frontier"].searches and not items["memory"].searches
    with pytest.raises(UsageError, match="needs memory_limit=SIZE .* or latency_limit"):
        plan(common)
    with pytest.raises(UsageError, match="latency_limit=0"):
        plan([*common, "latency_limit=0"])


def test_a_timer_is_part_of_latencys_question_where_it_is_not_the_usual_one() -> None:
    common = ["mechanism=softmax", "task=speed", "meters=[latency,memory]", "seq_len=64"]
    usual = {item.meter: item.case for item in plan(common).items}
    other = {item.meter: item.case for item in plan([*common, "timer=torch"]).items}
    assert usual["latency"].settings == {} and other["latency"].settings == {"timer": "torch"}
    assert usual["memory"].id == other["memory"].id and usual["latency"].id != other["latency"].id
    both = plan([*common, "timer=own,torch"]).items
    assert [(item.meter, item.case.settings.get("timer")) for item in both] == [
        ("latency", None),
        ("memory", None),
        ("latency", "torch"),
    ]
    with pytest.raises(UsageError, match="timer.*nvbench"):
        plan([*common, "timer=watch"])
