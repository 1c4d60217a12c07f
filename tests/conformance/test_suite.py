"""How the laws are run: verdicts, exemptions, pytest cases, other backends, a case's own hyper-parameters."""

from collections import Counter

import pytest
import torch
from _pytest.outcomes import XFailed

from cab import Pattern, Slot, Unsupported, Wrapper
from cab.conformance import EXEMPTIBLE, LAWS, check, check_params, parametrize
from cab.conformance.subject import Subject
from cab.conformance.suite import PANEL, SECOND
from cab.errors import UsageError
from cab.plugins import registry

LOCAL, AGENT, NONE, SOFTMAX = (registry.load("mechanism", name) for name in ("local", "agent", "none", "softmax"))
FAST = ["refuses", "suffix", "use"]


def cases_of(decorator):
    return {case.id: case.values[0] for case in decorator.mark.args[1]}


def later(verdict):
    """Whether the law was run in a later layer."""
    return verdict.setting.startswith("layer ")


def test_a_law_has_a_stable_name_and_says_what_it_demands_in_a_line() -> None:
    for name, law in LAWS.items():
        assert name.replace("_", "").isalnum() and name.islower()
        assert law.doc.endswith((".", ").")), name


def test_laws_that_admit_exemptions_are_those_of_the_contract() -> None:
    in_computing = {"bf16", "autocast", "meta", "compile", "inductor"}
    assert set(EXEMPTIBLE) == {"use", "learning", "batch_training", "heads", "modes", *in_computing}


def test_every_pattern_and_every_entry_of_checks_is_run() -> None:
    runs = Counter((verdict.pattern, verdict.law) for verdict in check(LOCAL, laws=FAST) if not later(verdict))
    param_sets = len(LOCAL.checks)
    assert runs == {
        **{(p, law): param_sets for p in ("NS", "CS", "NC", "CC") for law in ("refuses", "use")},
        **{(p, "suffix"): param_sets for p in ("CS", "CC")},
    }


def test_patterns_and_hyperparameters_can_be_chosen() -> None:
    verdicts = check(LOCAL, patterns=["CS"], params={"window": 2, "block": 2}, laws=FAST)
    assert [v.law for v in verdicts if later(v)] == ["suffix", "use"]
    verdicts = [v for v in verdicts if not later(v)]
    assert [(v.pattern, v.params, v.status) for v in verdicts] == [("CS", {"window": 2, "block": 2}, "pass")] * 3
    assert all(verdict.seconds > 0 for verdict in verdicts)


def test_an_undeclared_pattern_is_only_asked_to_be_refused() -> None:
    class OnlyNoncausal(LOCAL):
        patterns = {"NS": "native"}

    verdicts = check(OnlyNoncausal, patterns=["CC"], params={"window": 2})
    assert [(v.law, v.status) for v in verdicts] == [("card", "pass"), ("refuses", "pass")]


def test_an_unknown_law_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'suffix'"):
        check(LOCAL, laws=["sufix"])


def test_an_exemption_carries_its_reason() -> None:
    verdicts = [verdict for verdict in check(NONE, laws=["use"]) if verdict.law == "use"]
    assert {verdict.status for verdict in verdicts} == {"exempt"}
    assert verdicts[0].reason == NONE.exempt["use"]


def test_an_exemption_from_use_by_name_leaves_the_other_names_to_the_law() -> None:
    class KeepsValuesAtTheirToken(NONE):
        exempt = {"use:v": "it stays at its token"}
        reads = "kv"

        def attend(self, q, k, v, key_mask=None, query_mask=None):
            return v * self.factor(k)

        def factor(self, k):
            return 1.0

    class ReadsKeysToo(KeepsValuesAtTheirToken):
        def factor(self, k):
            return k.mean((1, 2, 3), keepdim=True)

    (ignored,) = check(KeepsValuesAtTheirToken, ["NS"], laws=["use"])[:1]
    assert (ignored.status, ignored.reason) == ("fail", "k is declared, and changes nothing")
    assert ignored.exempted_by == ("use:k",)
    verdicts = check(ReadsKeysToo, ["NS"], laws=["use"])
    assert {(verdict.status, verdict.reason) for verdict in verdicts} == {("exempt", "it stays at its token")}


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown backend of Nothing 'sdpa'"):
        check(NONE, backend="sdpa", laws=["use"])


def test_a_crash_under_a_law_is_a_failure_that_says_what_was_raised() -> None:
    class Crashes(LOCAL):
        def attend(self, *args, **inputs):
            raise IndexError("out of range")

    verdicts = check(Crashes, patterns=["NS"], laws=["use"])
    assert {(verdict.status, verdict.reason) for verdict in verdicts} == {("fail", "IndexError: out of range")}


def test_laws_run_on_one_thread_and_leave_the_number_of_threads_and_the_generator() -> None:
    threads, state, threads_of_calls = torch.get_num_threads(), torch.get_rng_state(), []

    class RecordsThreads(LOCAL):
        def attend(self, *args, **inputs):
            threads_of_calls.append(torch.get_num_threads())
            return super().attend(*args, **inputs)

    check(RecordsThreads, patterns=["NS"], laws=["use", "training", "randomness", "learning"])
    assert set(threads_of_calls) == {1} and torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_another_backend_is_held_to_the_same_laws_where_it_runs() -> None:
    verdicts = check(AGENT, backend="sdpa", laws=FAST)
    assert {verdict.pattern for verdict in verdicts} == {"NS", "NC", "CC"}
    assert {verdict.status for verdict in verdicts} == {"pass"}
    with pytest.raises(Unsupported, match="CS"):
        check(AGENT, patterns=["CS"], backend="sdpa", laws=FAST)


class Kernel(SOFTMAX):
    """Has a backend like a GPU kernel: it takes heads of 16 and more, and 16-bit inputs only."""

    scale = 1.0

    def use(self, backend):
        if backend == "kernel" and min(self.slot.dim, self.slot.values) < 16:
            raise Unsupported("heads of at least 16")
        return super().use(backend)

    def attend_kernel(self, q, k, v, key_mask=None, query_mask=None):
        if q.dtype not in (torch.bfloat16, torch.float16):
            raise Unsupported(f"no kernel for {q.dtype}")
        return self.attend(q * self.scale, k, v, key_mask, query_mask)


class WrongKernel(Kernel):
    scale = 1.5


class NoKernel(Kernel):
    def attend_kernel(self, q, k, v, key_mask=None, query_mask=None):
        raise Unsupported("no kernel at all")


def test_a_kernel_is_held_to_the_laws_in_the_sizes_and_dtypes_that_it_takes() -> None:
    laws = ["definition", "lengths", "padding", "suffix", "truncation"]
    subject = Subject(Kernel, Pattern.CS, backend="kernel")
    assert (subject.dtype, subject.slot().dim, Subject(Kernel, Pattern.CS).dtype) == (torch.bfloat16, 16, torch.float64)
    assert [v.reason for v in check(Kernel, backend="kernel", laws=laws) if v.status != "pass"] == []
    failures = {v.law for v in check(WrongKernel, patterns=["CS"], backend="kernel", laws=laws) if v.status == "fail"}
    assert failures == {"definition", "lengths"}
    with pytest.raises(Unsupported, match="no kernel at all"):
        check(NoKernel, patterns=["CS"], backend="kernel", laws=laws)


def test_a_case_s_backend_is_judged_alone_and_without_one_each_that_runs_here() -> None:
    statuses = {
        backend: [v.status for v in check(WrongKernel, ["CS"], backend=backend, laws=["definition"])]
        for backend in (None, "eager", "tiled")
    }
    assert "fail" in statuses[None] and set(statuses["eager"] + statuses["tiled"]) == {"pass"}


def test_cases_are_called_by_mechanism_pattern_and_law() -> None:
    names = list(cases_of(parametrize([LOCAL, NONE])))
    assert {"local-CS-suffix", "local-NC-limits", "local-card", "none-CC-use"} <= set(names)
    assert "local-NS-suffix" not in names and "none-NS-grouped" in names
    assert not any(name.endswith("inductor") for name in names)
    assert list(cases_of(parametrize(NONE, laws=["inductor"]))) == [f"none-{p.value}-inductor" for p in Pattern]


def test_a_case_passes_fails_or_is_an_expected_failure() -> None:
    class Leaks(LOCAL):
        def attend(self, q, k, v, key_mask=None, query_mask=None):
            return super().attend(q, k, v, key_mask) + v.mean(2, keepdim=True)

    cases_of(parametrize(LOCAL, laws=["suffix"]))["local-CS-suffix"]()
    with pytest.raises(AssertionError, match=r"Leaks CS .*change earlier rows"):
        cases_of(parametrize(Leaks, laws=["suffix"]))["Leaks-CS-suffix"]()
    with pytest.raises(XFailed, match="floor"):
        cases_of(parametrize(NONE, laws=["use"]))["none-NS-use"]()


def test_the_card_s_case_fails_for_an_exemption_that_nothing_needs() -> None:
    class NeedsNoExemption(LOCAL):
        exempt = {"heads": "talking heads"}

    with pytest.raises(AssertionError, match="heads is exempt, and nothing needs it"):
        cases_of(parametrize(NeedsNoExemption))["NeedsNoExemption-card"]()


def test_own_hyperparameters_are_compared_with_the_reference_in_a_slot_that_is_long_enough() -> None:
    (verdict,) = check_params(AGENT, "CS", {"agents": 512, "chunk": 16})
    assert (verdict.law, verdict.status) == ("params", "pass")
    (verdict,) = check_params(AGENT, "CS", {"chunk": 48})
    assert verdict.status == "fail" and "power of two" in verdict.reason


def test_own_hyperparameters_are_checked_in_the_slot_of_the_case_by_its_backend() -> None:
    slot = Slot(Pattern.NC, heads=4, dim=16, max_len=32, source_len=512)
    (verdict,) = check_params(AGENT, Pattern.NC, {"agents": 32}, backend="sdpa", slot=slot)
    assert verdict.status == "pass"

    class WrongBackend(AGENT):
        def attend_sdpa(self, *args, **inputs):
            return 2 * super().attend_sdpa(*args, **inputs)

    (verdict,) = check_params(WrongBackend, Pattern.NC, {"agents": 32}, backend="sdpa", slot=slot)
    assert verdict.status == "fail" and "32 tokens, sdpa" in verdict.reason


class Doubled(Wrapper):
    """Twice what is inside."""

    factor = 2

    def around(self, *attends, q, k, v, key_mask, query_mask):
        return self.factor * attends[0](q, k, v)


def test_a_wrapper_is_lawful_around_a_panel_of_mechanisms() -> None:
    laws = [name for name, law in LAWS.items() if not law.long and name != "compile"]
    verdicts = check(Doubled, laws=laws)
    assert [verdict for verdict in verdicts if verdict.status == "fail"] == []
    assert {verdict.pattern for verdict in verdicts} == {"NS", "CS", "NC", "CC"}
    assert {verdict.params["inner"]["name"] for verdict in verdicts} == set(PANEL)


def test_a_wrapper_that_names_what_is_inside_is_checked_around_that_alone() -> None:
    class DoubledLinear(Doubled):
        checks = ({"inner": {"name": "linear", "chunk": 4}},)

    verdicts = check(DoubledLinear, ["CS"], laws=["definition", "suffix"])
    assert {verdict.params["inner"]["name"] for verdict in verdicts} == {"linear"}


def test_a_wrapper_of_two_is_checked_around_pairs() -> None:
    class Sum(Wrapper):
        def __init__(self, slot, *, inner, second):
            super().__init__(slot, inner=inner, second=second)

        def around(self, *attends, q, k, v, key_mask, query_mask):
            return attends[0](q, k, v) + attends[1](q, k, v)

    verdicts = check(Sum, laws=FAST)
    assert [verdict for verdict in verdicts if verdict.status == "fail"] == []
    pairs = {(verdict.params["inner"]["name"], verdict.params["second"]["name"]) for verdict in verdicts}
    assert pairs == set(zip(PANEL, SECOND, strict=True))


def test_a_wrapper_that_forgets_the_scale_of_a_step_is_found_out() -> None:
    class ForgetsWhileStreaming(Doubled):
        def step(self, state, q, k=None, v=None, key_mask=None, **inputs):
            out, state = super().step(state, q, k, v, key_mask, **inputs)
            return out / self.factor, state

    failed = {(v.law, v.params["inner"]["name"]) for v in check(ForgetsWhileStreaming, ["CS"]) if v.status == "fail"}
    assert {("streaming", "softmax"), ("streaming", "gla"), ("streaming", "lightning")} <= failed
