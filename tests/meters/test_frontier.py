"""The longest length within a limit: searches over costs that are known."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cab import UsageError
from cab.contracts.case import Case
from cab.instruments import timers
from cab.meters.frontier import RESOLUTION, Frontier
from cab.planning.plan import plan

MEMORY, TIME = "longest_in_memory", "longest_in_time"

MakeCase = Callable[..., Case]


@pytest.fixture
def make_case(case: Case) -> MakeCase:
    """`make_case(n, **limits)` builds a case of n tokens with these limits."""

    def make(n: int = 65536, **limits: Any) -> Case:
        return replace(case, n=n, m=n, settings={"padding": 0.5, **limits})

    return make


class FakeProbe:
    """Runs out of memory above a length, and takes a millisecond a token; or ends with another status always."""

    def __init__(self, longest: int, status: tuple[str, str] | None = None) -> None:
        self.longest, self.status = longest, status
        self.cases: list[Any] = []

    def __call__(self, case: Any, pinned: bool) -> tuple[str, str, Any]:
        self.cases.append(case)
        assert ("latency_limit" in case.settings) == pinned and len(case.settings) == 2
        if self.status:
            return (*self.status, None)
        if case.n > self.longest:
            return "oom", "can't allocate", None
        return "ok", "", {"probe": {"samples": [case.n * 1e-3 * f for f in (0.9, 1.0, 5.0)]}}


@pytest.mark.parametrize("longest", [16, 17, 100, 1023, 1024, 3000, 30000, 65535])
def test_the_bracket_holds_the_frontier_and_is_narrow(longest: int, make_case: MakeCase) -> None:
    probe = FakeProbe(longest)
    results = Frontier().search(make_case(memory_limit=1), probe)
    reading = Frontier().reduce(MEMORY, [results[MEMORY]])
    assert reading.ci_low == reading.value <= longest < reading.ci_high
    assert reading.ci_high <= max(RESOLUTION * reading.value, reading.value + 16) and "oom" in reading.stop_reason
    assert reading.converged == (reading.ci_high <= RESOLUTION * reading.value)
    assert reading.count == len(probe.cases) == len({case.n for case in probe.cases}) <= 20


def test_what_fits_at_the_case_s_length_has_no_upper_bound(make_case: MakeCase) -> None:
    reading = Frontier().reduce(MEMORY, [Frontier().search(make_case(5000, memory_limit=1), FakeProbe(10**9))[MEMORY]])
    assert (reading.value, reading.ci_high, reading.converged) == (5000, None, False)
    assert "longest that was asked for" in reading.stop_reason


def test_where_nothing_fits_the_answer_is_nothing(make_case: MakeCase) -> None:
    reading = Frontier().reduce(MEMORY, [Frontier().search(make_case(memory_limit=1), FakeProbe(3))[MEMORY]])
    assert (reading.value, reading.ci_high, reading.converged) == (0, 16, False)


def test_in_time_the_median_decides_and_running_out_of_memory_is_too_long(make_case: MakeCase) -> None:
    result = Frontier().search(make_case(latency_limit=4.0), FakeProbe(10**9))[TIME]
    assert 4000 / RESOLUTION <= result["samples"][0] <= 4000 and result["why"].endswith(" s")
    result = Frontier().search(make_case(latency_limit=4.0), FakeProbe(2000))[TIME]
    assert 2000 / RESOLUTION <= result["samples"][0] <= 2000 and result["why"] == "oom"


def test_both_limits_are_two_searches_and_m_follows_n(make_case: MakeCase) -> None:
    probe = FakeProbe(3000)
    results = Frontier().search(replace(make_case(memory_limit=1, latency_limit=1.0), m=16384), probe)
    assert set(results) == {MEMORY, TIME}
    assert results[TIME]["samples"][0] <= 1000 < 2000 < results[MEMORY]["samples"][0]
    assert all(case.m == round(case.n / 4) for case in probe.cases)


def test_what_is_neither_ends_the_search_with_its_reason(make_case: MakeCase) -> None:
    result = Frontier().search(make_case(memory_limit=1), FakeProbe(1, ("wrong", "the output is not finite")))[MEMORY]
    assert result == {"status": "wrong", "reason": "at n=1024: the output is not finite"}
    # a probe for memory that hangs says nothing about memory
    result = Frontier().search(make_case(memory_limit=1), FakeProbe(1, ("timeout", "took more than 600 s")))[MEMORY]
    assert result["status"] == "timeout"


def test_a_probe_times_or_runs_a_real_pass(make_workload: Callable[..., Any]) -> None:
    timed = make_workload(settings={"latency_limit": 1.0})
    assert min(Frontier().measure(timed, timed.case)["probe"]["samples"]) > 0
    limited = make_workload(settings={"memory_limit": 1 << 30})
    assert Frontier().measure(limited, limited.case) == {"probe": {"samples": []}}


@pytest.mark.parametrize("has_run", [True, False])
def test_the_first_run_of_a_pass_is_no_sample(
    has_run: bool, make_case: MakeCase, stub_workload: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    monkeypatch.setitem(timers.TIMERS, "own", lambda run, device: timers.Timing([float(len(runs))]))
    result = Frontier().measure(stub_workload(lambda: runs.append(1), has_run=has_run), make_case(latency_limit=1.0))
    assert result["probe"]["samples"] == [0.0 if has_run else 1.0]


def test_the_limits_are_part_of_the_frontiers_question_and_of_no_others() -> None:
    common = ["mechanism=softmax", "task=speed", "meters=[frontier,memory]", "seq_len=64"]
    items = {item.meter: item for item in plan([*common, "memory_limit=1GiB", "latency_limit=0.5"]).measurements}
    assert items["frontier"].case.settings == {"memory_limit": 1 << 30, "latency_limit": 0.5}
    assert items["memory"].case.settings == {} and items["frontier"].searches and not items["memory"].searches
    with pytest.raises(UsageError, match="needs memory_limit=SIZE .* or latency_limit"):
        plan(common)
    with pytest.raises(UsageError, match="latency_limit=0"):
        plan([*common, "latency_limit=0"])


def test_a_timer_is_part_of_latencys_question_where_it_is_not_the_usual_one() -> None:
    common = ["mechanism=softmax", "task=speed", "meters=[latency,memory]", "seq_len=64"]
    usual = {item.meter: item.case for item in plan(common).measurements}
    other = {item.meter: item.case for item in plan([*common, "timer=torch"]).measurements}
    assert usual["latency"].settings == {} and other["latency"].settings == {"timer": "torch"}
    assert usual["memory"].id == other["memory"].id and usual["latency"].id != other["latency"].id
    both = plan([*common, "timer=own,torch"]).measurements
    assert [(item.meter, item.case.settings.get("timer")) for item in both] == [
        ("latency", None),
        ("memory", None),
        ("latency", "torch"),
    ]
    with pytest.raises(UsageError, match="timer.*nvbench"):
        plan([*common, "timer=watch"])
